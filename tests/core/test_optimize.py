"""Properties of the optimisation loop."""

import copy
import math
from collections import Counter
from itertools import islice

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import nbhelpers as nb
from nbhelpers.networks.loading import load_model
from nbhelpers.optimize import PUBLISHED, Solver, descend, l2_ball

CALL = {"steps", "solver", "project", "callback", "batch_size"}


@pytest.fixture(scope="module")
def target(tiny_model):
    return tiny_model.representation(nb.noise(4, seed=1))


@pytest.fixture(scope="module")
def exact(tiny_model):
    """In double precision: rounding depends on the batch size, and steps amplify it."""
    return copy.deepcopy(tiny_model).double()


def split(options):
    """Splits options into those for the call and options for `Solver`."""
    call = {key: options[key] for key in CALL & options.keys()}
    return call, {key: value for key, value in options.items() if key not in CALL}


def run(model, target, start, **options):
    call, own = split({"steps": 12, **options})
    solver = call.pop("solver", None) or Solver(**own)
    return nb.minimize(model.representation, nb.match(target), start, solver=solver, **call)


def test_loss_falls_in_five_steps(tiny_model, target):
    losses = run(tiny_model, target, nb.noise(4), steps=5, step_size=0.2).losses
    assert losses.shape == (6, 4)
    assert (losses[-1] < losses[0]).all()


def test_start_is_left_alone_and_every_step_keeps_its_images(tiny_model, target):
    start = nb.noise(4)
    kept = list(descend(tiny_model.representation, nb.match(target), start, steps=6))
    copies = [
        step.images.clone()
        for step in descend(tiny_model.representation, nb.match(target), start, steps=6)
    ]
    assert torch.equal(start, nb.noise(4))
    assert all(torch.equal(step.images, copy) for step, copy in zip(kept, copies, strict=True))


def test_every_step_carries_its_own_loss(tiny_model, target):
    objective = nb.match(target)
    steps = list(descend(tiny_model.representation, objective, nb.noise(4), steps=6))
    assert [step.index for step in steps] == list(range(7))
    for step in steps:
        torch.testing.assert_close(
            step.losses, objective(tiny_model.representation(step.images)), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("keep", ["best", "last"])
def test_result_is_the_best_or_the_last_iterate(tiny_model, target, keep):
    result = run(
        tiny_model, target, nb.noise(4), keep=keep, momentum=0.0, schedule="constant", step_size=2.0
    )
    assert torch.equal(
        result.loss, result.losses.min(0).values if keep == "best" else result.losses[-1]
    )
    loss = nb.match(target)(tiny_model.representation(result.images))
    torch.testing.assert_close(result.loss, loss, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ball, length", [(nb.l2_ball, math.inf), (nb.linf_ball, 0.01)])
def test_ball_and_box_are_kept(tiny_model, target, ball, length):
    start, radius = nb.noise(4), 0.3 if ball is nb.l2_ball else length
    for step in descend(
        tiny_model.representation,
        nb.match(target),
        start,
        steps=8,
        solver=Solver(step_size=0.5),
        project=ball(start, radius),
    ):
        offset = (step.images - start).flatten(1)
        norms = offset.norm(dim=1) if ball is nb.l2_ball else offset.abs().amax(1)
        assert (norms <= radius * (1 + 1e-5)).all()
        assert step.images.amin() >= 0 and step.images.amax() <= 1


def test_box_is_kept_by_long_steps(tiny_model, target):
    for step in descend(
        tiny_model.representation,
        nb.match(target),
        nb.noise(4),
        steps=5,
        solver=Solver(step_size=50.0),
    ):
        assert step.images.amin() >= 0 and step.images.amax() <= 1


def test_zero_gradient_moves_nothing(tiny_model):
    start = nb.noise(2)
    steps = descend(tiny_model.representation, lambda features: 0 * features.sum(1), start, steps=3)
    assert all(torch.equal(step.images, start) for step in steps)


@pytest.mark.parametrize("stop_below", [None, 0.12])
def test_a_batch_of_n_equals_n_runs(exact, target, stop_below):
    start, target = nb.noise(4).double(), target.double()
    together = run(exact, target, start, stop_below=stop_below, keep="last").images
    alone = [
        run(exact, target[i : i + 1], start[i : i + 1], stop_below=stop_below, keep="last").images
        for i in range(4)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-9)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
def test_split_does_not_change_the_result(exact, target, batch_size):
    start, target = nb.noise(4).double(), target.double()
    whole, split = (run(exact, target, start, batch_size=size) for size in (None, batch_size))
    torch.testing.assert_close(split.images, whole.images, rtol=0, atol=1e-9)
    torch.testing.assert_close(split.losses, whole.losses, rtol=0, atol=1e-9)


def test_a_large_request_is_split_by_what_an_image_takes():
    sizes = []

    def hungry(images):
        sizes.append(len(images))
        # 3 MB saved per image
        return images.flatten(1).repeat(1, 256).exp().sum(1, keepdim=True)

    nb.minimize(hungry, nb.activate(0), nb.noise(50), steps=1)
    # measured at two and one; then the step and the last score, 64 MB each
    assert sizes == [2, 1] + 2 * [17, 17, 16]


def test_out_of_memory_halves_the_batch_and_goes_on(tiny_model, target):
    sizes = []

    def scarce(images):
        sizes.append(len(images))
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return tiny_model.representation(images)

    result = nb.minimize(scarce, nb.match(target), nb.noise(4), steps=3)
    assert sizes[:3] == [4, 2, 1] and set(sizes[3:]) == {1}  # the size that fits is kept
    expected = nb.minimize(tiny_model.representation, nb.match(target), nb.noise(4), steps=3)
    torch.testing.assert_close(result.losses, expected.losses, rtol=1e-2, atol=1e-4)

    def none_fits(images):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        nb.minimize(none_fits, nb.match(target), nb.noise(4), steps=3)


def test_finished_images_leave_the_batch(tiny_model, target):
    sizes = []

    def watched(images):
        sizes.append(len(images))
        return tiny_model.representation(images)

    start = nb.noise(4)
    start[0] = nb.noise(4, seed=1)[0]  # already at the target
    result = nb.minimize(
        watched, nb.match(target), start, steps=40, solver=nb.Solver(stop_below=0.08)
    )
    assert sizes[:2] == [4, 3] and sizes == sorted(sizes, reverse=True)
    assert torch.equal(result.images[0], start[0])
    assert (result.loss < 0.08).all() and result.stopped == "tolerance" and len(result.losses) < 41


def test_all_finished_at_the_start_ends_there(tiny_model, target):
    result = run(tiny_model, target, nb.noise(4), stop_below=1e9)
    assert result.stopped == "tolerance" and result.losses.shape == (1, 4)
    assert torch.equal(result.images, nb.noise(4))


def test_same_seed_same_result(tiny_model, target):
    first, second = (run(tiny_model, target, nb.noise(4, seed=3)) for _ in range(2))
    assert torch.equal(first.images, second.images) and torch.equal(first.losses, second.losses)


def test_parameters_get_no_gradient(tiny_model, target):
    run(tiny_model, target, nb.noise(4), steps=2)
    assert all(not p.requires_grad and p.grad is None for p in tiny_model.parameters())


def test_the_loop_works_inside_no_grad(tiny_model, target):
    with torch.no_grad():
        inside = run(tiny_model, target, nb.noise(4))
    assert torch.equal(inside.losses, run(tiny_model, target, nb.noise(4)).losses)


def test_a_true_callback_stops(tiny_model, target):
    result = run(tiny_model, target, nb.noise(4), callback=lambda step: step.index == 3)
    assert result.stopped == "callback" and len(result.losses) == 4
    assert run(tiny_model, target, nb.noise(4), callback=lambda step: None).stopped == "steps"


def test_an_interrupt_ends_the_caller_unless_asked_otherwise(tiny_model, target):
    def interrupt(step):
        if step.index == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny_model, target, nb.noise(4), callback=interrupt)
    result = run(tiny_model, target, nb.noise(4), callback=interrupt, interrupt="keep")
    assert result.stopped == "interrupt" and len(result.losses) == 4
    assert torch.equal(result.loss, result.losses.min(0).values)

    def at_once(images):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nb.minimize(at_once, nb.match(target), nb.noise(4), solver=Solver(interrupt="keep"))


def test_published_loop_is_one_of_the_settings(exact, target):
    """A step is the unit gradient times the step size, then the box: computed independently."""
    start, target = nb.noise(4).double(), target.double()
    images = start
    for _ in range(5):
        images = images.clone().requires_grad_()
        loss = (exact.representation(images) - target).norm(dim=1) / target.norm(dim=1)
        (gradient,) = torch.autograd.grad(loss.mean(), images)
        images = images.detach() - gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
        images = images.clamp(0, 1)
    result = run(exact, target, start, steps=5, solver=PUBLISHED)
    torch.testing.assert_close(result.images, images, rtol=0, atol=1e-9)


def test_default_solver_ends_lower_than_the_published_one():
    """Shipped robust network, equal steps."""
    model = load_model("cifar10-l2-0.5", device="cpu")
    target = model.representation(nb.load_images("cifar10-sample", indices=range(4))[0])
    ours = run(model, target, nb.noise(4), steps=60)
    published = run(model, target, nb.noise(4), steps=60, solver=PUBLISHED)
    assert ours.loss.mean() < published.loss.mean()


@pytest.mark.parametrize(
    "size, steps, length",
    [(32, 200, 0.2), (64, 200, 0.4), (32, 1000, 0.2), (32, 125, 0.32), (32, 5, 0.4)],
)
def test_default_step_size_follows_the_diagonal_and_suits_the_number_of_steps(
    tiny_model, size, steps, length
):
    zero, one = islice(
        descend(tiny_model.representation, nb.activate(0), nb.noise(1, size=size), steps=steps), 2
    )
    assert (one.images - zero.images).norm().item() == pytest.approx(length, rel=1e-3)


GOOD = torch.full((2, 3, 8, 8), 0.5)


@pytest.mark.parametrize(
    "changed, error, words",
    [
        ({"start": GOOD * 255}, ValueError, "divide by 255"),
        ({"start": GOOD - 1}, ValueError, "do not normalise"),
        ({"start": GOOD * math.nan}, ValueError, "NaN"),
        ({"start": GOOD[0]}, ValueError, "batch dimension"),
        ({"start": GOOD[:0]}, ValueError, "empty"),
        ({"start": (GOOD * 255).byte()}, TypeError, "float"),
        ({"start": GOOD.numpy()}, TypeError, "ndarray"),
        ({"steps": 0}, ValueError, "at least 1"),
        ({"step_size": 0.0}, ValueError, "positive"),
        ({"step_size": math.inf}, ValueError, "positive"),
        ({"momentum": 1.0}, ValueError, "below 1"),
        ({"momentum": -0.1}, ValueError, "below 1"),
        ({"schedule": "linear"}, ValueError, "'cosine' or 'constant'"),
        ({"keep": "first"}, ValueError, "'best' or 'last'"),
        ({"batch_size": 0}, ValueError, "at least 1"),
        ({"interrupt": "stop"}, ValueError, "'raise' or 'keep'"),
        ({"solver": {"step_size": 1}}, TypeError, r"nb.Solver\("),
        ({"stop_below": math.nan}, ValueError, "never"),
        ({"objective": lambda features: features.sum()}, ValueError, "one loss per image"),
        ({"objective": lambda features: features}, ValueError, "one loss per image"),
    ],
)
def test_bad_input_is_refused_in_one_line(changed, error, words):
    options = {"objective": lambda features: features.sum(1), "start": GOOD} | changed
    objective, start = options.pop("objective"), options.pop("start")
    with pytest.raises(error, match=words) as raised:
        call, own = split(options)
        call["solver"] = call.get("solver", Solver(**own))
        nb.minimize(lambda images: images.flatten(1), objective, start, **call)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("radius", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("ball", [nb.l2_ball, nb.linf_ball])
def test_bad_radius_is_refused(ball, radius):
    with pytest.raises(ValueError, match="finite length"):
        ball(GOOD, radius)


class Counted(TorchDispatchMode):
    """Counts operations by name; "wait" counts those that synchronise a GPU."""

    WAITS = (
        "_local_scalar_dense",
        "nonzero",
        "is_nonzero",
        "equal",
        "_unique2",
        "masked_select",
        "_to_copy",
    )

    def __enter__(self):
        super().__enter__()
        self.counts = Counter()
        return self.counts

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        self.counts["wait" if name in self.WAITS else name] += 1
        return function(*args, **(kwargs or {}))


def test_one_forward_one_backward_and_no_wait_per_step(tiny_model, target):
    """A speed regression shows in operation counts, which do not vary as seconds do."""
    iterates = descend(tiny_model.representation, nb.match(target), nb.noise(4), steps=20)
    next(iterates)  # checks before the loop may read the images
    with Counted() as one:
        next(iterates)
    with Counted() as rest:
        assert len(list(iterates)) == 19
    layers = one["convolution"]
    assert layers == 20 and one["convolution_backward"] == layers  # one forward, one backward
    assert rest["convolution"] == 19 * layers and rest["convolution_backward"] == 18 * layers
    assert one["wait"] == rest["wait"] == 0
    assert sum(count for name, count in one.items() if "batch_norm" in name) == 0  # folded
    # about six per convolution with ReLU, a dozen per step
    assert one.total() < 11 * layers


def test_stop_below_waits_every_ten_steps(tiny_model, target):
    iterates = descend(
        tiny_model.representation,
        nb.match(target),
        nb.noise(4),
        steps=40,
        solver=Solver(stop_below=0.0),
    )
    with Counted() as counted:
        assert len(list(iterates)) == 41
    assert counted["wait"] == 4


def test_a_radius_is_one_number():
    with pytest.raises(ValueError, match="one finite length ≥ 0 for all images"):
        l2_ball(torch.zeros(2, 3, 4, 4), torch.ones(2))  # type: ignore[arg-type]
