"""Labels of a data set as classes of a network trained on another."""

import pytest
import torch

import nbhelpers as nb
from nbhelpers.data.imagenet import RESTRICTED_IMAGENET
from nbhelpers.data.images import labels_of
from nbhelpers.data.matching import class_places
from nbhelpers.pair.labels import labels_for

IMAGENET = nb.class_names("photographs")
CIFAR10 = nb.class_names("cifar10-sample")
TINY = ("goldfish", "koala", "lesser panda", "triumphal arch", "acorn")


def named(labels, classes):
    return [classes[k] if k >= 0 else "" for k in labels.tolist()]


def test_equal_names_are_one_class():
    _, labels = nb.load_images("photographs", size=8, classes=TINY)
    own = named(nb.load_images("photographs", size=8)[1], IMAGENET)
    found = named(labels, TINY)
    assert found == [name if name in TINY else "" for name in own]
    assert found.count("triumphal arch") == 2
    # ambiguous
    assert class_places(("crane", "b"), ("crane", "a", "crane")).tolist() == [-1, -1]
    # a dog, a garment
    assert class_places(("Cardigan", "cardigan"), ("cardigan",)).tolist() == [-1, 0]


def test_groups_are_by_wordnet_and_no_gazelle_is_a_deer():
    photographs = named(labels_of("photographs", classes=CIFAR10), CIFAR10)
    own = named(labels_of("photographs"), IMAGENET)
    assert {o: g for o, g in zip(own, photographs, strict=True) if g} == {
        **dict.fromkeys(("hen", "macaw", "toucan", "spoonbill"), "bird"),
        **{"German shepherd": "dog", "tabby": "cat", "sorrel": "horse"},
    }
    every = named(class_places(IMAGENET, CIFAR10), CIFAR10)
    assert every.count("dog") == 118 and every.count("bird") == 59 and every.count("deer") == 0
    assert {IMAGENET[i] for i, name in enumerate(every) if name == "automobile"} == {
        *(
            "ambulance",
            "beach wagon",
            "cab",
            "convertible",
            "jeep",
            "limousine",
            "minivan",
            "Model T",
            "racer",
        ),
        "sports car",
    }
    assert {IMAGENET[i] for i, name in enumerate(every) if name == "truck"} == {
        *("fire engine", "garbage truck", "moving van", "tow truck", "trailer truck")
    }
    assert {IMAGENET[i] for i, name in enumerate(every) if name == "ship"} == {
        *("aircraft carrier", "container ship", "liner", "pirate", "wreck")
    }
    assert {IMAGENET[i] for i, name in enumerate(every) if name in ("airplane", "frog", "cat")} == {
        *("airliner", "warplane", "bullfrog", "tree frog", "tailed frog"),
        *("tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat"),
    }


def test_a_part_of_imagenet_falls_into_the_groups_too():
    restricted = tuple(RESTRICTED_IMAGENET)
    assert named(class_places(("tabby", "goldfish", "bee", "koala"), restricted), restricted) == [
        *("cat", "", "insect", "")
    ]
    assert class_places(CIFAR10, CIFAR10).tolist() == list(range(10))
    assert class_places((), CIFAR10).shape == (0,)


STL10 = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
MNIST = ("0 - zero", "1 - one", "10 - ten", "2 - two")
TUTORIAL = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.mark.parametrize(
    ("names", "classes", "meant"),
    [
        # a subset, in another order and spelling
        (("cat", "dog", "truck"), CIFAR10, ("cat", "dog", "truck")),
        (("cat", "dog"), ("dog", "cat"), ("cat", "dog")),
        (STL10, CIFAR10, ("airplane", "bird", "automobile", *STL10[3:7], "", "ship", "truck")),
        (CIFAR10, STL10, ("airplane", "car", *STL10[1:2], *STL10[3:6], "", "horse", *STL10[8:])),
        (TUTORIAL, CIFAR10, CIFAR10),
        (CIFAR10, TUTORIAL, TUTORIAL),
        (("Cats", "Dogs"), CIFAR10, ("cat", "dog")),
        (
            ("horses", "foxes", "wolves", "cherries"),
            ("wolf", "cherry", "horse", "fox"),
            ("horse", "fox", "wolf", "cherry"),
        ),
        (
            ("aquarium_fish", "T-shirt"),
            ("Aquarium fish", "T-shirt/top"),
            ("Aquarium fish", "T-shirt/top"),
        ),
        (("pottedplant", "tv"), ("television", "potted plant"), ("potted plant", "television")),
        # two folders of one class, and an ambiguous name
        (("car", "automobile"), CIFAR10, ("", "automobile")),
        (("auto", "car"), CIFAR10, ("automobile", "automobile")),
        (("crane",), ("crane", "crane, bird"), ("crane",)),
        (("glass", "sunglass"), ("sunglasses", "glass"), ("glass", "sunglasses")),
        # ImageNet's spelling variants
        (("tench, Tinca tinca", "red panda"), IMAGENET, ("tench", "lesser panda")),
        (("Cardigan, Cardigan Welsh corgi",), ("cardigan", "tench"), ("",)),
        (("n01440764", "n02102040"), IMAGENET, ("tench", "English springer")),
        (("tench, Tinca tinca", "tabby_cat", "sorrel"), TUTORIAL, ("", "cat", "horse")),
        (("airliner", "plane", "ship"), CIFAR10, ("airplane", "", "ship")),
        # numbers on both sides, by value and not by position
        (("0", "1", "10", "2"), tuple(map(str, range(12))), ("0", "1", "10", "2")),
        (("00", "07"), tuple(map(str, range(10))), ("0", "7")),
        (("class_3", "class_1"), ("LABEL_0", "LABEL_1", "LABEL_3"), ("LABEL_3", "LABEL_1")),
        (("1", "2", "3"), ("0", "1", "2"), ("", "", "")),
        (("0", "1"), ("cat", "dog"), ("", "")),
        # numbers before names
        (MNIST, ("0", "1", "2", "10"), ("0", "1", "10", "2")),
        (("0", "1", "10", "2"), MNIST, MNIST),
        (("two", "zero"), MNIST, ("2 - two", "0 - zero")),
        (("002.Laysan_Albatross",), ("Laysan Albatross", "Rook"), ("Laysan Albatross",)),
        (("001.cat", "002.dog"), ("0", "1", "2"), ("", "")),
        (("8 ball", "9 ball"), ("9 ball", "8 ball"), ("8 ball", "9 ball")),
        # accents as folders of macOS have them, capitals and hyphens
        (
            ("Mu\u0308ll", "AfricanElephant"),
            ("müll", "african-elephant"),
            ("müll", "african-elephant"),
        ),
        # nothing in common
        (("lamp", "chair"), CIFAR10, ("", "")),
        ((), CIFAR10, ()),
    ],
)
def test_classes_are_matched_by_name(names, classes, meant):
    assert tuple(named(class_places(names, classes), classes)) == meant


def test_all_of_imagenet_keeps_its_order_however_a_few_are_spelled():
    other = [name.upper().replace(" ", "_") for name in IMAGENET]
    other[:400] = [f"{name} or so" for name in IMAGENET[:400]]
    assert class_places(other, IMAGENET).tolist() == list(range(1000))
    turned = (*other[500:], *other[:500])
    found = class_places(turned, IMAGENET)
    assert found[:400].tolist() == list(range(500, 900)) and (found[500:900] < 0).all()


def test_of_restricted_imagenet_every_class_of_the_thousand_counts():
    restricted = tuple(RESTRICTED_IMAGENET)
    plain = class_places(IMAGENET, restricted)
    assert torch.equal(class_places([f"{name}, so called" for name in IMAGENET], restricted), plain)
    assert (plain >= 0).sum() == sum(b - a + 1 for a, b in RESTRICTED_IMAGENET.values())


def test_labels_stay_unknown_where_they_were(tmp_path):
    array = torch.zeros(2, 3, 4, 4)
    assert nb.load_images(array, classes=CIFAR10)[1].tolist() == [-1, -1]
    assert nb.load_images("out-of-distribution", size=4, classes=CIFAR10)[1].tolist() == [-1] * 12


@pytest.fixture(scope="module")
def pair():
    return nb.load_pair("cifar10-l2-0.5", "cifar10-standard", "photographs", device="cpu")


def test_a_pair_labels_what_its_networks_know(pair):
    """Other labels are unknown, and `known` drops their images."""
    picked, _, labels = pair.draw(49, seed=1)
    truth = labels_of("photographs", classes=CIFAR10)[picked]
    assert pair.labelled and (truth >= 0).sum() == 7
    assert torch.equal(labels, truth)
    rows, _, known = pair.draw(49, seed=1, known=True)
    assert rows == [row for row, label in zip(picked, truth, strict=True) if label >= 0]
    assert torch.equal(known, truth[truth >= 0])
    assert len(pair.draw(3, seed=1, known=True)[0]) == 3


def test_of_a_data_set_that_fits_nothing_changes(capsys):
    pair = nb.load_pair("cifar10-l2-0.5", "cifar10-standard", "cifar10-sample", device="cpu")
    assert capsys.readouterr().out == ""
    one, other = pair.draw(5, seed=3), pair.draw(5, seed=3, known=True)
    assert one[0] == other[0] and torch.equal(one[2], other[2])
    robust = pair.networks["robust"]
    assert torch.equal(labels_for(robust, "cifar10-sample"), labels_of("cifar10-sample"))


def test_it_says_how_many_are_strange(capsys):
    nb.load_pair("cifar10-l2-0.5", "cifar10-standard", "photographs", device="cpu")
    assert capsys.readouterr().out.startswith(
        "42 of 49 images of photographs have none of the networks' classes;"
    )
