"""The rule of `steps: auto`: how long a stage is for so many products and judged queries."""

from __future__ import annotations

import math

from beyond_text.config.settings import Config, ConfigError, active_losses, views_of
from beyond_text.config.views import uses_queries

AUTO = "auto"


def auto_steps(config: Config, products: int, queries: int) -> int:
    """Computes the steps of a stage, before `budget`, by the settings `auto_steps`.

    Without queries among its views (stage 1), passes over the products, between limits:

        passes * products / (batch_size * accumulate)

    With them, `few_steps` at `few_queries` and `many_steps` at `many_queries`; between them, and
    below, as a power of the queries:

        few_steps * (queries / few_queries)^p,
        p = log(many_steps / few_steps) / log(many_queries / few_queries)

    Of that, a stage of queries and texts alone (stage 2) takes `text_share`.
    """
    rule, views = config.auto_steps, views_of(config)
    if not uses_queries(active_losses(config)):
        steps = rule.passes * products / (config.batch_size * config.accumulate)
        return round(min(max(steps, rule.least), rule.most))
    power = math.log(rule.many_steps / rule.few_steps)
    power /= math.log(rule.many_queries / rule.few_queries)
    asked = min(max(queries, 1), rule.many_queries)
    steps = rule.few_steps * (asked / rule.few_queries) ** power
    return max(1, round(steps * (rule.text_share if views <= {"query", "text"} else 1)))


def check_steps(config: Config) -> None:
    """Checks that steps are a number or `auto`, and that the rule has an answer.

    Raises:
        ConfigError: names the setting.
    """
    if isinstance(config.steps, str) and config.steps != AUTO:
        raise ConfigError(f"steps: expected a whole number or {AUTO}, got {config.steps!r}")
    rule = config.auto_steps
    for name, low, high in (
        ("passes", 1e-3, 1e6),
        ("least", 1, rule.most),
        ("few_queries", 1, rule.many_queries - 1),
        ("few_steps", 1, math.inf),
        ("many_steps", rule.few_steps, math.inf),
        ("text_share", 1e-3, 1),
    ):
        value = getattr(rule, name)
        if not (low <= value <= high and math.isfinite(value)):
            raise ConfigError(
                f"auto_steps.{name}: expected a value from {low:g} to {high:g}, got {value:g}"
            )
