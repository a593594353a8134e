"""Tests in folders named after the package's; where the project and its recipes lie."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes"
