"""The kinds of stream there are. A new kind is one file here and its name in ALL."""

from collections.abc import Mapping
from typing import Any

from eventstore.categories import build, task
from eventstore.category import Category

ALL: tuple[Category[Any], ...] = (build.CATEGORY, task.CATEGORY)

BY_NAME: Mapping[str, Category[Any]] = {category.name: category for category in ALL}
