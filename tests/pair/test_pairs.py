"""Captions of a pair: own names, known labels, and predictions."""

import pytest
import torch

import nbhelpers as nb


@pytest.fixture(scope="module")
def pair():
    return nb.load_pair("cifar10-l2-0.5", "cifar10-standard", "pictures", device="cpu")


def test_a_caption_is_the_name_of_the_picture(pair):
    picked, _, labels = pair.draw(40, seed=0)
    names = pair.names(picked)
    assert names == [nb.data.image_names("pictures")[row] for row in picked]
    assert (labels < 0).any()
    # independent of the prediction
    assert pair.names([0]) == [nb.data.image_names("photographs")[0]]


def test_a_missing_label_stays_missing(pair):
    _, images, labels = pair.draw(60, seed=3)
    known = nb.data.images.labels_of("pictures", classes=pair.classes)
    assert torch.equal(labels, known[pair.draw(60, seed=3)[0]])
    assert pair.class_names(labels) == [pair.classes[k] if k >= 0 else "–" for k in labels.tolist()]
    assert images.shape == (60, 3, 32, 32)


def test_known_leaves_out_what_has_no_label(pair):
    picked, _, labels = pair.draw(500, seed=3, known=True)
    assert len(picked) == int((pair.dataset.labels >= 0).sum()) > 10
    assert (labels >= 0).all() and torch.equal(labels, pair.dataset.labels[picked])


def test_nothing_known_is_said(tmp_path):
    strange = nb.open_images(nb.noise(3))
    pair = nb.load_pair("cifar10-l2-0.5", "cifar10-standard", strange, device="cpu")
    assert not pair.labelled and pair.draw(3)[2].tolist() == [-1] * 3
    assert pair.names([0, 2]) == ["–", "–"]
    with pytest.raises(ValueError, match=r"known: no image of .* is of the networks' classes"):
        pair.draw(2, known=True)


def test_predictions_are_marked(pair):
    _, images, _ = pair.draw(4, seed=1)
    captions = pair.predictions(images)
    for name, network in pair.networks.items():
        classes = [network.classes[k] for k in nb.predict(network, images)]
        assert captions[name] == [f"{name}: {one}" for one in classes]
