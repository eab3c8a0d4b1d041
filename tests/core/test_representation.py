"""Ranking, attribution, interpolation and distance of representations."""

import copy
import tracemalloc

import pytest
import torch

import nbhelpers as nb


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_represent_does_not_depend_on_the_batches(tiny_model, images) -> None:
    whole = nb.represent(tiny_model, images)
    assert torch.allclose(whole, nb.represent(tiny_model, images, batch_size=7), atol=1e-5)
    pairs = ((part, torch.zeros(len(part), dtype=torch.long)) for part in images.split(6))
    assert torch.allclose(whole, nb.represent(tiny_model, pairs), atol=1e-5)


def test_a_data_set_is_passed_in_parts_that_suit_the_device(tiny_model, monkeypatch) -> None:
    sizes, representation = [], tiny_model.representation
    monkeypatch.setattr(
        tiny_model, "representation", lambda x: sizes.append(len(x)) or representation(x)
    )
    nb.represent(tiny_model, torch.rand(100, 3, 32, 32))
    nb.represent(tiny_model, iter([torch.rand(70, 3, 64, 64), torch.rand(1, 3, 64, 64)]))
    assert sizes == [64, 36, 32, 32, 6, 1]


def test_out_of_memory_halves_the_parts_and_goes_on(tiny_model, images, monkeypatch) -> None:
    expected, sizes, representation = (
        nb.represent(tiny_model, images),
        [],
        tiny_model.representation,
    )

    def scarce(x: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        if len(x) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return representation(x)

    monkeypatch.setattr(tiny_model, "representation", scarce)
    found = nb.represent(tiny_model, iter([images[:15], images[15:]]))
    assert torch.allclose(found, expected, atol=1e-5)
    assert sizes == [15, 7, 3, 3, 3, 3, 3, 3, 2]  # the size that fits is kept
    with pytest.raises(torch.OutOfMemoryError):
        monkeypatch.setattr(tiny_model, "representation", lambda x: scarce(x.repeat(6, 1, 1, 1)))
        nb.represent(tiny_model, images)


def test_top_images_are_the_sorted_ends(tiny_model, images) -> None:
    values = nb.represent(tiny_model, images)[:, 3]
    top = nb.top_images(tiny_model, images, 3, 4, batch_size=6)
    assert top.highest.tolist() == values.argsort(descending=True)[:4].tolist()
    assert top.lowest.tolist() == values.argsort()[:4].tolist()
    assert torch.allclose(top.highest_values, values[top.highest], atol=1e-5)
    several = nb.top_images(tiny_model, images, [5, 3], 4, batch_size=6)
    assert several.highest.shape == (2, 4) and several.highest[1].tolist() == top.highest.tolist()


def test_top_images_remember_only_the_top(tiny_model) -> None:
    batch = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    tracemalloc.start()
    top = nb.top_images(tiny_model, (batch for _ in range(60)), 0, 3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # ties: the earlier image
    assert top.highest.tolist()[0] == int(tiny_model.representation(batch)[:, 0].argmax())
    assert peak < 2_000_000


def test_contributions_add_up_to_the_logit(tiny_model, images) -> None:
    classes = torch.arange(20) % 10
    logit = nb.contributions(tiny_model, images, classes).sum(1) + tiny_model.head.bias[classes]
    assert torch.allclose(logit, tiny_model(images).gather(1, classes[:, None])[:, 0], atol=1e-4)


def test_predict_is_the_argmax_of_the_logits(tiny_model, images) -> None:
    assert (
        nb.predict(tiny_model, images, batch_size=9).tolist()
        == tiny_model(images).argmax(1).tolist()
    )


def test_interpolate_has_its_ends(images) -> None:
    strip = nb.interpolate(images[0], images[1], [0, 0.5, 1])
    assert torch.equal(strip[0], images[0]) and torch.equal(strip[2], images[1])
    assert torch.allclose(strip[1], (images[0] + images[1]) / 2)


def test_noise_is_seeded_and_dim() -> None:
    assert torch.equal(nb.noise(4, seed=3), nb.noise(4, seed=3))
    assert not torch.equal(nb.noise(4, seed=3), nb.noise(4, seed=4))
    assert (
        abs(float(nb.noise(4).mean()) - 0.5) < 0.01 and abs(float(nb.noise(4).std()) - 0.05) < 0.005
    )


def test_random_partners_belong_to_another_class() -> None:
    labels = torch.arange(40) % 3
    partners = nb.random_partners(labels, seed=1)
    assert bool((labels[partners] != labels).all())
    assert torch.equal(partners, nb.random_partners(labels, seed=1))


def test_random_partners_of_unknown_images_are_any_others() -> None:
    unknown = torch.full((5,), -1)
    partners = nb.random_partners(unknown, seed=2)
    assert bool((partners != torch.arange(5)).all()) and len(partners) == 5
    mixed = torch.tensor([-1, 0, 0, -1])
    for seed in range(8):
        found = nb.random_partners(mixed, seed=seed)
        assert bool((found != torch.arange(4)).all()) and set(found[1:3].tolist()) <= {0, 3}


@pytest.mark.parametrize("labels", [[0], [-1], [3, 3, 3]])
def test_random_partners_say_that_there_is_none(labels: list[int]) -> None:
    with pytest.raises(ValueError, match=f"got {len(labels)} images? of one class.*n_images"):
        nb.random_partners(labels)


def test_what_is_not_finite_is_not_ranked(tiny_model, images) -> None:
    broken = copy.deepcopy(tiny_model)
    for weight in broken.parameters():
        weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="activations of image 0 and others are not finite"):
        nb.top_images(broken, images, range(broken.components), k=2)


def test_psnr_of_a_tenth_is_twenty(images) -> None:
    grey = torch.full_like(images[:2], 0.5)
    assert torch.allclose(nb.psnr(grey, grey + 0.1), torch.full((2,), 20.0), atol=1e-3)


def test_ssim_is_one_for_equal_images_and_low_for_noise(images) -> None:
    assert torch.allclose(nb.ssim(images[:3], images[:3]), torch.ones(3))
    assert float(nb.ssim(images[:3], images[3:6]).max()) < 0.2


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m, x: nb.top_images(m, x, 32), IndexError, "wanted 0 to 31"),
        (lambda m, x: nb.top_images(m, x, 0, 0), ValueError, "k: got 0"),
        (lambda m, x: nb.top_images(m, iter([]), 0), ValueError, "empty"),
        (lambda m, x: nb.contributions(m, x, torch.full((20,), 10)), IndexError, "wanted 0 to 9"),
        (lambda m, x: nb.interpolate(x[0], x[:2], [0.5]), ValueError, "the same"),
        (lambda m, x: nb.noise(0), ValueError, "at least 1"),
        (
            lambda m, x: nb.random_partners(torch.zeros(4, dtype=torch.long)),
            ValueError,
            "two classes",
        ),
        (lambda m, x: nb.ssim(x[:2], x[:3]), ValueError, "the same"),
        (lambda m, x: nb.represent(m, x, batch_size=0), ValueError, "batch_size: got 0"),
        (lambda m, x: nb.represent(m, x * 255), ValueError, "divide by 255"),
        (lambda m, x: nb.represent(m, (x - 0.5) / 0.25), ValueError, "do not normalise"),
        (lambda m, x: nb.represent(m, x[0]), ValueError, "batch dimension"),
        (lambda m, x: nb.represent(m, x * torch.nan), ValueError, "NaN"),
        (lambda m, x: nb.represent(m, (x * 255).byte()), TypeError, "images.float"),
    ],
)
def test_bad_input_gets_one_clear_line(tiny_model, images, make, error, message) -> None:
    with pytest.raises(error, match=message) as caught:
        make(tiny_model, images)
    assert "\n" not in str(caught.value)
