"""Shapes in signatures are correct at run time, checked by jaxtyping and beartype around valid calls.

No import hook: it would refuse the tracer's proxies, and hide our own messages on wrong shapes.
"""

import pytest
import torch
from beartype import beartype
from jaxtyping import TypeCheckError, jaxtyped

import nbhelpers as nb

IMAGES, FEATURES, LABELS = torch.rand(4, 3, 32, 32), torch.rand(4, 32), torch.tensor([0, 1, 2, 3])
CALLS = {
    "match": (nb.match, (FEATURES,)),
    "leave": (nb.leave, (FEATURES,)),
    "activate": (nb.activate, (LABELS,)),
    "misclassify": (nb.misclassify, (LABELS,)),
    "box": (nb.box, (IMAGES,)),
    "l2_ball": (nb.l2_ball, (IMAGES, 0.5)),
    "linf_ball": (nb.linf_ball, (IMAGES, 0.1)),
    "noise": (nb.noise, (4,)),
    "distance": (nb.distance, (FEATURES, FEATURES)),
    "psnr": (nb.psnr, (IMAGES, IMAGES)),
    "ssim": (nb.ssim, (IMAGES, IMAGES)),
    "interpolate": (nb.interpolate, (IMAGES[0], IMAGES[1], [0.0, 1.0])),
}
ABOUT_A_MODEL = {
    "represent": (nb.represent, (IMAGES,)),
    "predict": (nb.predict, (IMAGES,)),
    "top_images": (nb.top_images, (IMAGES, 0, 2)),
    "contributions": (nb.contributions, (IMAGES, LABELS)),
    "representation": (nb.Model.representation, (IMAGES,)),
    "forward": (nb.Model.forward, (IMAGES,)),
}


def checked(function):
    return jaxtyped(function, typechecker=beartype)


@pytest.mark.parametrize("name", CALLS)
def test_signature_of_a_function_is_true(name):
    function, arguments = CALLS[name]
    checked(function)(*arguments)


@pytest.mark.parametrize("name", ABOUT_A_MODEL)
def test_signature_of_what_takes_a_model_is_true(tiny_model, name):
    function, arguments = ABOUT_A_MODEL[name]
    checked(function)(tiny_model, *arguments)


def test_signature_of_the_loop_is_true(tiny_model):
    objective = nb.match(FEATURES)
    checked(nb.minimize)(tiny_model.representation, objective, IMAGES, steps=1)
    checked(nb.descend)(tiny_model.representation, objective, IMAGES, steps=1)
    assert checked(objective)(FEATURES).shape == (4,)
    assert checked(nb.l2_ball(IMAGES, 0.5))(IMAGES).shape == IMAGES.shape


def test_a_wrong_shape_would_be_seen():
    with pytest.raises(TypeCheckError):
        checked(nb.distance)(FEATURES[0], FEATURES)
