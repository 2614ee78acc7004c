"""Filter expressions over ids for Milvus."""

from __future__ import annotations

import numpy as np
import pytest

from index.integrations.milvus.vectors import filter_expressions


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("max_ids", [7, 50_000])
def test_expressions_match_the_allowed_ids(share: float, max_ids: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index.integrations.milvus.vectors.MAX_IDS", max_ids)
    random = np.random.default_rng(5)
    for mask in (random.random(1000) < share, np.repeat(random.random(20) < share, 50)):
        conditions = [compile(expression, "filter", "eval") for expression in filter_expressions(mask)]
        for i in [*range(0, 1000, 7), 49, 50, 51, 999, 1000, 1001]:
            true = sum(eval(expression, {"id": i}) for expression in conditions)  # Python reads them as Milvus does
            assert true == (1 if i < len(mask) and mask[i] else 0)
    assert filter_expressions(None) == [""]


def test_the_shorter_list_of_ids_is_used() -> None:
    few = np.arange(100_000) % 1000 == 1  # 100 ids, too far apart for ranges
    assert [len(filter_expressions(mask)[0]) < 1000 for mask in (few, ~few)] == [True, True]
