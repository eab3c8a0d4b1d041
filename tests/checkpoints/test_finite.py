"""Half-precision weights keep their values, and errors name non-finite tensors."""

import pytest
import torch
from torch import nn

import nbhelpers as nb
from nbhelpers.checkpoints.finite import halved, not_finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scale", [10.0**k for k in range(-30, 31, 3)])
def test_half_precision_holds_the_numbers_or_is_not_used(scale, dtype):
    torch.manual_seed(0)
    tensor = (torch.randn(50, dtype=torch.float64) * scale).to(dtype)
    kept = halved({"a": tensor})["a"]
    assert kept.isfinite().all()
    assert (kept.double() - tensor.double()).abs().max() <= tensor.double().abs().max() * 2**-10
    if 1e-3 <= scale <= 1e3:
        assert kept.dtype == torch.float16


@pytest.mark.parametrize(
    "tensor",
    [torch.tensor([65504.0]), torch.tensor([65520.0, 1.0]), torch.tensor([1e-8]), torch.zeros(3)],
)
def test_half_precision_at_its_ends(tensor):
    torch.testing.assert_close(halved({"a": tensor})["a"].float(), tensor, rtol=1e-3, atol=0)


def test_whole_numbers_and_empty_tensors_stay():
    counts = {"n": torch.tensor(70_000), "none": torch.empty(0), "which": torch.ones(2).bool()}
    assert all(halved(counts)[key] is tensor for key, tensor in counts.items())
    assert not_finite(counts) == not_finite({}) == ""


def test_what_is_not_finite_is_named_and_counted():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    assert not_finite(network.state_dict()) == ""
    network[0].bias.data[:2] = torch.nan
    network[1].running_var[3] = torch.inf
    told = not_finite(network.state_dict())
    assert told == "0.bias (2 NaN of 8), 1.running_var (1 infinite of 8)"
    mask = torch.zeros(4, 4).masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf)
    assert not_finite({"mask": mask}) == ""  # an attention mask
    many = not_finite({f"w{i}": torch.tensor(torch.nan) for i in range(9)})
    assert many.endswith("and 5 more") and "\n" not in many


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("key", ["0.weight", "0.bias", "1.running_var", "5.weight", "5.bias"])
def test_a_network_whose_weights_are_not_finite_names_them(key, value):
    """Refused if the logits are NaN; a warning if they are not, as with one dead channel."""
    head = [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), *head)
    with torch.no_grad():
        network.state_dict()[key].view(-1)[0] = value
    told = rf"weights are not finite: {key} \(1 (NaN|infinite) of"
    if (key, value) == ("1.running_var", torch.inf):
        with pytest.warns(UserWarning, match=told):
            nb.Model(network, image_size=32)
    else:
        with pytest.raises(ValueError, match=told):
            nb.Model(network, image_size=32)
