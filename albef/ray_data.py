"""Work on parts with Ray Data, on this machine or on the cluster at ``RAY_ADDRESS``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from albef.cluster import cluster

P = TypeVar("P")


def each(work: Callable[[P], None], parts: Sequence[P]) -> Iterator[P]:
    """Call ``work`` with every part in a task of its own.

    Parts are yielded when they are done, in any order. The nodes of a cluster need access to the same files.
    """
    with cluster(1):
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)

        def done(row: dict[str, Any]) -> dict[str, Any]:
            work(parts[row["item"]])
            return row

        numbers = ray.data.from_items(list(range(len(parts))), override_num_blocks=len(parts))
        for row in numbers.map(done).iter_rows():
            yield parts[row["item"]]
