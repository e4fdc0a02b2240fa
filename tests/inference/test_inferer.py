"""HyperInferer and Segmenter."""

import pytest
import torch
from monai.inferers import SlidingWindowInferer

from monai_hyper import HyperInferer, Segmenter, SupportSet, load_model
from monai_hyper.inference.windowed import WindowedInferer
from monai_hyper.types import InputError


@pytest.fixture(scope="module")
def model():
    return load_model()


@pytest.fixture(scope="module")
def support():
    label = torch.zeros(2, 1, 32, 34, 33, dtype=torch.long)
    label[..., 8:20, 8:20, 8:20] = 1
    return SupportSet(torch.randn(2, 1, 32, 34, 33) + label, label)


def test_conditions_once_however_many_queries(model, support, monkeypatch):
    calls = []
    condition = model.condition
    monkeypatch.setattr(model, "condition", lambda s: calls.append(1) or condition(s))
    inferer = HyperInferer(support)
    for _ in range(3):
        inferer(torch.randn(1, 1, 32, 34, 33), model)
    assert len(calls) == 1


def test_whole_run_equals_the_conditioned_network(model, support):
    query = torch.randn(1, 1, 36, 34, 33)
    with torch.no_grad():
        expected = model.condition(support)(query)
    torch.testing.assert_close(HyperInferer(support)(query, model), expected)


def test_window_over_everything_equals_the_whole_run(model, support):
    query = torch.randn(1, 1, 36, 34, 33)
    window = HyperInferer(support, SlidingWindowInferer(roi_size=(36, 34, 33)))
    torch.testing.assert_close(window(query, model), HyperInferer(support)(query, model))


def test_a_scan_or_weights_with_nan_are_no_answer(model, support):
    inferer, query = HyperInferer(support), torch.randn(1, 1, 36, 34, 33)
    inferer(query, model)
    alone = inferer._network.materialise()
    query[0, 0, 3, 4, 5] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        inferer(query, model)
    with pytest.raises(InputError, match="NaN"):
        WindowedInferer()(query, alone)


def test_segmenter_says_what_is_missing(support):
    segmenter = Segmenter()
    with pytest.raises(RuntimeError, match="fit"):
        segmenter.logits(torch.zeros(1, 8, 8, 8))
    with pytest.raises(TypeError, match="plan"):
        segmenter.fit(support)
