"""The official PyTorch trainings of four methods, imported from clones of their repositories and never copied.

They ask for CUDA, torchvision and other packages; what a training step does not use is answered with stand-ins
(`.cuda()` does nothing without CUDA, modules are empty), so that the official networks and steps run unchanged, as
their own training scripts call them. Learning-rate schedules, data sets and logs are left out. For bfloat16 the step
runs under torch's autocast; for that AdaIN gets one addition (`_let_batch_norms_have_float32_parameters`).

Needs torch, PyYAML, Pillow and NumPy. Tried with ACL-GAN at 661a98b, UGATIT-pytorch at b8c4251, MUNIT at a82e222 and
pytorch-CycleGAN-and-pix2pix at 9f8f61e (March 2023).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

_ABSENT = (
    "cv2", "dataset", "scipy", "scipy.misc", "torch.utils.serialization", "torchvision", "torchvision.transforms",
    "torchvision.utils",
)  # fmt: skip
_GENERATOR = {
    "width": "dim", "downsamples": "n_downsample", "residual_blocks": "n_res", "style_dim": "style_dim",
    "mlp_dim": "mlp_dim",
}  # fmt: skip
_JUDGE = {"discriminator_width": "dim", "discriminator_layers": "n_layer", "discriminator_scales": "num_scales"}


class Training(NamedTuple):
    """A training that a process has ready, on random images held in memory.

    about: one phrase.
    device: its name.
    parameters: how many are trained.
    run: runs so many data iterations and waits for them.
    peak: the peak memory in MiB on a GPU (0 on a CPU).
    trace: runs so many data iterations and writes a profile of them into a folder; None: cannot.
    """

    about: str
    device: str
    parameters: int
    run: Callable[[int], None]
    peak: Callable[[], float]
    trace: Callable[[int, str], None] | None = None


class Official(NamedTuple):
    """The official code of a method.

    repository: OWNER/NAME, for messages.
    file: that a clone has.
    follows: options of our config that it follows.
    ours_alone: options of our config that do not change what is computed, or name what it does anyway.
    build: (arguments, options, device) -> a data iteration that is given its number, and all networks.
    config: official configuration inside the clone, or "".
    cudnn_benchmark: its training script turns it on.
    """

    repository: str
    file: str
    follows: tuple[str, ...]
    ours_alone: tuple[str, ...]
    build: Callable[..., tuple[Callable[[int], None], list[Any]]]
    config: str = ""
    cudnn_benchmark: bool = True

    @property
    def name(self) -> str:
        return self.repository.split("/")[1]


def refusal(method: str, folder: str, options: dict[str, object]) -> str:
    """Why the code in `folder` cannot be timed beside ours; "" if it can."""
    official = OFFICIAL[method]
    if not os.path.isfile(os.path.join(folder, official.file)):
        return f"--peer={folder}: no {official.file} there; name the folder of a clone of {official.repository}"
    for name in options:
        if name not in official.follows + official.ours_alone:
            return (
                f"--option {name}: {official.repository} is not told of it and would compute something else; "
                f"leave it out, or --peer; it follows {', '.join(official.follows)}"
            )
    return ""


def training(arguments: argparse.Namespace, options: dict[str, object]) -> Training:
    """The official training, its images held on the device.

    Args:
        arguments: method, peer, peer_config, size, batch, threads, tf32, peer_dtype (float32, or bfloat16: torch's
            autocast).
        options: of our config.
    """
    sys.path[0] = os.path.abspath(arguments.peer)
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        torch.Tensor.cuda = lambda self, *rest, **named: self
        torch.nn.Module.cuda = lambda self, *rest, **named: self
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    official = OFFICIAL[arguments.method]
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = official.cudnn_benchmark
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = arguments.tf32 == "on"
    with _stand_ins():
        iteration, networks = official.build(arguments, options, device)
    reduced = arguments.peer_dtype == "bfloat16"
    if reduced:
        _let_batch_norms_have_float32_parameters()

    def run(iterations: int) -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=reduced):
            for number in range(iterations):
                iteration(number)
        if device == "cuda":
            torch.cuda.synchronize()

    def peak() -> float:
        return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0

    parameters = sum(p.numel() for network in networks for p in network.parameters() if p.requires_grad)
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    precision = "bfloat16 by autocast" if reduced else "float32"
    return Training(f"official code, torch {torch.__version__} on {name}, {precision}", name, parameters, run, peak)


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    """Empty modules for what a training step does not use; what torch itself imports meanwhile stays imported."""
    kept = {name: sys.modules.pop(name) for name in _ABSENT if name in sys.modules}
    sys.modules.update({name: mock.MagicMock() for name in _ABSENT})
    try:
        yield
    finally:
        for name in _ABSENT:
            del sys.modules[name]
        sys.modules.update(kept)


def _let_batch_norms_have_float32_parameters() -> None:
    """MUNIT's and ACL-GAN's AdaIN gives them numbers of an MLP, which autocast makes bfloat16, and torch refuses."""
    from torch.nn import functional

    batch_norm = functional.batch_norm

    def with_float32(x: Any, mean: Any, variance: Any, weight: Any = None, bias: Any = None, *rest: Any) -> Any:
        weight, bias = (None if value is None else value.float() for value in (weight, bias))
        return batch_norm(x, mean, variance, weight, bias, *rest)

    functional.batch_norm = with_float32


def _images(arguments: argparse.Namespace, device: str) -> tuple[Any, Any]:
    import torch

    shape = (arguments.batch, 3, arguments.size, arguments.size)
    return torch.rand(shape, device=device) * 2 - 1, torch.rand(shape, device=device) * 2 - 1


def _configuration(arguments: argparse.Namespace, options: dict[str, Any]) -> dict[str, Any]:
    """The YAML file of ACL-GAN's or MUNIT's clone, with our options in it."""
    import yaml

    with open(os.path.join(arguments.peer, arguments.peer_config or OFFICIAL[arguments.method].config)) as file:
        config = yaml.safe_load(file)
    if config.get("vgg_w"):
        raise ValueError(f"{file.name}: vgg_w is {config['vgg_w']}; ours has no VGG loss, name a file with 0")
    for part, names in (("gen", _GENERATOR), ("dis", _JUDGE)):
        config[part].update({theirs: options[name] for name, theirs in names.items() if name in options})
    if "cycle_weight" in options:
        config["recon_x_cyc_w"] = options["cycle_weight"]
    return config


def _acl_gan(arguments: argparse.Namespace, options: dict[str, Any], device: str) -> tuple[Callable, list[Any]]:
    from trainer import aclgan_Trainer

    config = _configuration(arguments, options)
    return _updates_in_turn(aclgan_Trainer, config, config["G_update"], arguments, device)


def _munit(arguments: argparse.Namespace, options: dict[str, Any], device: str) -> tuple[Callable, list[Any]]:
    from trainer import MUNIT_Trainer

    return _updates_in_turn(MUNIT_Trainer, _configuration(arguments, options), 1, arguments, device)


def _updates_in_turn(
    kind: Callable[..., Any], config: dict[str, Any], every: int, arguments: argparse.Namespace, device: str
) -> tuple[Callable, list[Any]]:
    """A trainer of MUNIT's kind: discriminators, and generators in one of `every` data iterations."""
    trainer = kind(config).to(device)
    trainer.train()
    x_a, x_b = _images(arguments, device)

    def iteration(number: int) -> None:
        trainer.dis_update(x_a, x_b, config)
        if number % every == 0:
            trainer.gen_update(x_a, x_b, config)

    return iteration, [trainer]


def _cyclegan(arguments: argparse.Namespace, options: dict[str, Any], device: str) -> tuple[Callable, list[Any]]:
    """Settings are those of the official training options, with ours on their command line."""
    from models.cycle_gan_model import CycleGANModel
    from options.train_options import TrainOptions

    flags = ["--dataroot=none", "--model=cycle_gan", f"--gpu_ids={0 if device == 'cuda' else -1}"]
    flags += [f"--batch_size={arguments.batch}", f"--crop_size={arguments.size}"]
    flags.append(f"--netG=resnet_{options.get('residual_blocks', 9)}blocks")
    named = {"width": "ngf", "discriminator_width": "ndf", "pool_size": "pool_size"}
    named |= {"identity_weight": "lambda_identity"}
    flags += [f"--{theirs}={options[name]}" for name, theirs in named.items() if name in options]
    settings = TrainOptions()
    settings.print_options = lambda found: None  # it would write a file
    with mock.patch.object(sys, "argv", ["train.py", *flags]):
        model = CycleGANModel(settings.parse())
    x_a, x_b = _images(arguments, device)

    def iteration(number: int) -> None:
        model.set_input({"A": x_a, "B": x_b, "A_paths": [], "B_paths": []})
        model.optimize_parameters()

    return iteration, [model.netG_A, model.netG_B, model.netD_A, model.netD_B]


def _ugatit(arguments: argparse.Namespace, options: dict[str, Any], device: str) -> tuple[Callable, list[Any]]:
    """The official training loop; its networks are built as its `build_model` does, whose data sets are not there."""
    import networks
    import torch
    import UGATIT

    trainer = object.__new__(UGATIT.UGATIT)
    width, blocks = options.get("width", 64), options.get("residual_blocks", 4)
    judge_width = options.get("discriminator_width", 64)
    depths = {"G": options.get("global_layers", 7), "L": options.get("local_layers", 5)}
    generators = {
        name: networks.ResnetGenerator(3, 3, width, blocks, arguments.size, light=bool(options.get("light", 0)))
        for name in ("genA2B", "genB2A")
    }
    judges = {f"dis{s}{d}": networks.Discriminator(3, judge_width, depths[s]) for d in "AB" for s in "GL"}
    vars(trainer).update({name: network.to(device) for name, network in {**generators, **judges}.items()})
    adam = {"lr": 1e-4, "betas": (0.5, 0.999), "weight_decay": 1e-4}
    trainer.G_optim = torch.optim.Adam(itertools.chain(*(n.parameters() for n in generators.values())), **adam)
    trainer.D_optim = torch.optim.Adam(itertools.chain(*(n.parameters() for n in judges.values())), **adam)
    trainer.L1_loss, trainer.MSE_loss = torch.nn.L1Loss(), torch.nn.MSELoss()
    trainer.BCE_loss, trainer.Rho_clipper = torch.nn.BCEWithLogitsLoss(), networks.RhoClipper(0, 1)
    for domain, images in zip("AB", _images(arguments, device), strict=True):
        setattr(trainer, f"train{domain}_loader", _Endless((images, None)))
    vars(trainer).update(
        resume=False, decay_flag=False, lr=1e-4, device=device, print_freq=10**9, save_freq=10**9, adv_weight=1,
        cycle_weight=10, identity_weight=10, cam_weight=1000, dataset="none", result_dir="none",
    )  # fmt: skip

    trainer.iteration = 1  # of its loop, which begins at 1

    def iteration(number: int) -> None:
        trainer.train()

    return iteration, [*generators.values(), *judges.values()]


class _Endless:
    """A loader of one batch; its iterator has `next` as in Python 2, which the official loop calls."""

    def __init__(self, batch: object) -> None:
        self.batch = batch

    def __iter__(self) -> _Endless:
        return self

    def __next__(self) -> object:
        return self.batch

    next = __next__


OFFICIAL = {
    "acl_gan": Official(
        "hyperplane-lab/ACL-GAN",
        "trainer.py",
        (*_GENERATOR, *_JUDGE),
        (),
        _acl_gan,
        config="configs/male2female.yaml",
    ),
    "ugatit": Official(
        "znxlwm/UGATIT-pytorch",
        "UGATIT.py",
        ("light", "width", "residual_blocks", "global_layers", "local_layers", "discriminator_width"),
        ("profile", "share_fakes"),
        _ugatit,
        cudnn_benchmark=False,
    ),
    "munit": Official(
        "NVlabs/MUNIT",
        "trainer.py",
        (*_GENERATOR, *_JUDGE, "cycle_weight"),
        (),
        _munit,
        config="configs/edges2shoes_folder.yaml",
    ),
    "cyclegan": Official(
        "junyanz/pytorch-CycleGAN-and-pix2pix",
        os.path.join("models", "cycle_gan_model.py"),
        ("width", "discriminator_width", "residual_blocks", "pool_size", "identity_weight"),
        (),
        _cyclegan,
    ),
}
