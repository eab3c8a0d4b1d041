"""Train with robustness 1.2.1's own code, let it save, and note what its models compute.

    python robustness_writes.py FOLDER     (with robustness, cox, dill and pandas on PYTHONPATH)

The library is that of 2020 and knows only CUDA: what it imports and no longer exists is put back, and `.cuda()` stays
where it is. Nothing else of it is touched.
"""

import sys
import types
import warnings
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch

warnings.simplefilter("ignore")
torch.set_num_threads(2)
torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_, **__: self
hub = types.ModuleType("torchvision.models.utils")
hub.load_state_dict_from_url = torch.hub.load_state_dict_from_url
sys.modules |= {"torchvision.models.utils": hub, "tensorboardX": MagicMock()}

import dill  # noqa: E402
from cox.utils import Parameters  # noqa: E402
from robustness import datasets, defaults, model_utils, train  # noqa: E402

CASES = {
    "cifar-resnet18": (datasets.CIFAR, "resnet18", 32),
    "cifar-resnet50": (datasets.CIFAR, "resnet50", 32),
    "restricted-resnet18": (datasets.RestrictedImageNet, "resnet18", 48),
    "imagenet-resnet50": (datasets.ImageNet, "resnet50", 48),
}


def inversion(network, normalised, target):
    """The loss of the reference code's inversions: one number per image."""
    _, latent = network(normalised, with_latent=True, fake_relu=True)
    return torch.norm(latent - target, dim=1) / torch.norm(target, dim=1), None


def write(folder: Path, kind: type, arch: str, size: int) -> None:
    torch.manual_seed(0)
    dataset = kind("/nowhere")
    model, _ = model_utils.make_and_restore_model(arch=arch, dataset=dataset)
    images, labels = torch.rand(2, 3, size, size), torch.randint(dataset.num_classes, (2,))
    loader, small = [(images, labels)], [(images[:1], labels[:1])]
    args = Parameters(
        {
            "out_dir": str(folder),
            "adv_train": arch == "resnet18",
            "constraint": "2",
            "eps": 0.5,
            "attack_lr": 0.2,
            "attack_steps": 1,
        }
        | {
            "epochs": 1,
            "lr": 0.01,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "log_iters": 1,
            "save_ckpt_iters": 1,
        }
        | {
            "custom_lr_multiplier": "[(0, 1.0), (1, 0.5)]",
            "lr_interpolation": "linear",
            "random_start": 0,
        }
        | {"use_best": 0, "random_restarts": 0, "adv_eval": 0}
    )
    args = defaults.check_and_fill_args(args, defaults.TRAINING_ARGS, kind)
    args = defaults.check_and_fill_args(args, defaults.PGD_ARGS, kind)
    train.train_model(args, model, (loader, small))
    (folder / "0_checkpoint.pt").unlink()
    latest = folder / "checkpoint.pt.latest"

    # The saved file, restored by the library itself: it knows its own format best.
    whole = torch.load
    torch.load = lambda *args, **options: whole(*args, **options, weights_only=False)
    model, saved = model_utils.make_and_restore_model(
        arch=arch, dataset=dataset, resume_path=str(latest)
    )
    torch.load = whole
    model.eval()
    (logits, latent), _ = model(images, with_latent=True)
    gradients = {}
    for fake in (False, True):
        start = images.clone().requires_grad_()
        (_, out), _ = model(start, with_latent=True, fake_relu=fake)
        gradients[f"gradient_{fake}"] = torch.autograd.grad((out * weights(out)).sum(), start)[0]
    common = {"iterations": 1, "use_best": False, "with_image": True, "make_adv": True}
    _, attacked = model(images, labels, constraint="2", eps=0.3, step_size=0.5, **common)
    target = latent.roll(1, 0).detach()
    _, inverted = model(
        images,
        target,
        constraint="2",
        eps=1000,
        step_size=1,
        targeted=True,
        custom_loss=inversion,
        **common,
    )
    np.savez(
        folder / "computed.npz",
        **{k: v.detach().numpy() for k, v in gradients.items()},
        **{
            "images": images,
            "labels": labels,
            "logits": logits.detach(),
            "latent": latent.detach(),
        },
        **{"attacked": attacked.detach(), "inverted": inverted.detach(), "target": target},
        **{"mean": dataset.mean, "std": dataset.std},
    )
    if folder.name != "cifar-resnet18":
        return
    # As in cifar_l2_0_25.pt: a schedule with a lambda, hence a pickled code object; and the format before torch 1.6.
    saved["schedule"] = {"lr_lambdas": [lambda epoch: 0.1 ** (epoch // 50)], "last_epoch": 2}
    for name, modern in (("lambda.pt", True), ("legacy.pt", False)):
        torch.save(saved, folder / name, pickle_module=dill, _use_new_zipfile_serialization=modern)


def weights(out: torch.Tensor) -> torch.Tensor:
    """A fixed direction in the representation's space, many of whose components are off."""
    return torch.linspace(-1, 1, out.shape[1])


if __name__ == "__main__":
    for name, case in CASES.items():
        folder = Path(sys.argv[1]) / name
        folder.mkdir(parents=True)
        write(folder, *case)
