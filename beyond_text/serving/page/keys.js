// The keyboard: / goes to the words, arrows from card to card, Escape back.

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const middle = (element) => {
  const { left, top, width, height } = element.getBoundingClientRect();
  return [left + width / 2, top + height / 2];
};

/** Returns the nearest of some elements in a direction, or undefined. */
function nearest(from, all, [right, down]) {
  const [x, y] = middle(from);
  let best, least = Infinity;
  for (const each of all) {
    const [otherX, otherY] = middle(each);
    const along = (otherX - x) * right + (otherY - y) * down;
    const across = Math.abs((otherX - x) * down) + Math.abs((otherY - y) * right);
    // What stands in another row or column is farther than anything in this one.
    const distance = along + 4 * across;
    if (along > 4 && distance < least) [best, least] = [each, distance];
  }
  return best;
}

const types = (element) => /^(INPUT|TEXTAREA|SELECT)$/.test(element.tagName) && element.type !== "checkbox";

export function listenToKeys({ words, results, view, leave }) {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || view.open) return;
    const { target, key } = event;
    if (key === "/" && !types(target)) {
      event.preventDefault();
      words.focus();
      words.select();
      return;
    }
    if (key === "Escape") {
      if (target === words && words.value === "") words.blur();
      else leave();
      return;
    }
    if (!(key in ARROWS)) return;
    const links = [...results.querySelectorAll(".card a, .kinds a")];
    const card = target.closest?.(".card, .kinds li")?.querySelector("a");
    const next = card ? nearest(card, links, ARROWS[key]) : target === words && key === "ArrowDown" ? links[0] : null;
    if (next) {
      event.preventDefault();
      next.focus();
      next.scrollIntoView({ block: "nearest" });
    } else if (card && key === "ArrowUp") {
      event.preventDefault();
      words.focus();
    }
  });
}
