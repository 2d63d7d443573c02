"""Makes ugatit_golden.npz: what the official PyTorch U-GAT-IT and its fork compute in float64 from given weights.

    python tests/methods/make_ugatit_golden.py UGATIT-pytorch enhanced-UGATIT tests/methods/ugatit_golden.npz

The folders are clones of znxlwm/UGATIT-pytorch (b8c4251) and zheng-yuwei/enhanced-UGATIT (7dc7e39); torch is needed,
and no other package of theirs: modules that the step does not use are replaced by empty ones. Weights are drawn by
`ugatit_recipe.value`; the spectral norms' vectors are iterated until they stand still, so that it does not matter how
often a step iterates them. The official training loop runs unchanged, for one iteration.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import os
import sys
import types
from unittest import mock

import numpy as np
import torch

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import ugatit_recipe as recipe

ABSENT = (
    "cv2",
    "PIL",
    "scipy",
    "scipy.misc",
    "tqdm",
    "torchvision",
    "torchvision.transforms",
    "torch.utils.tensorboard",
    "faceseg",
    "faceseg.FaceSegmentation",
    "metrics",
    "dataset",
)
NAMES = {
    "g_a2b": "genA2B",
    "g_b2a": "genB2A",
    "d_global_a": "disGA",
    "d_local_a": "disLA",
    "d_global_b": "disGB",
    "d_local_b": "disLB",
}


def load(folder: str) -> types.SimpleNamespace:
    """The modules `networks` and `UGATIT` of a clone."""
    for name in ("networks", "utils", "UGATIT"):
        sys.modules.pop(name, None)
    sys.path.insert(0, folder)
    with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in ABSENT}):
        modules = {name: importlib.import_module(name) for name in ("networks", "UGATIT")}
    sys.path.remove(folder)
    return types.SimpleNamespace(**modules)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def array(tensor: torch.Tensor) -> np.ndarray:
    value = tensor.detach().numpy()
    return value.transpose(0, 2, 3, 1) if value.ndim == 4 else value


def fill(network: torch.nn.Module, name: str, power_steps: int = 0) -> torch.nn.Module:
    state = network.state_dict()
    for key, old in state.items():
        state[key] = torch.from_numpy(recipe.value(name, key, tuple(old.shape)))
    network.double().load_state_dict(state)
    for _ in range(power_steps):
        iterate(network)
    return network


def iterate(network: torch.nn.Module) -> None:
    """One power step of every spectral norm."""
    for module in network.modules():
        for hook in module._forward_pre_hooks.values():
            if type(hook).__name__ == "SpectralNorm":
                with torch.no_grad():
                    hook.compute_weight(module, do_power_iteration=True)


def put(golden: dict, key: str, outputs: tuple) -> None:
    for name, output in zip(("image", "logits", "heatmap", "masks"), outputs, strict=False):
        if output is not None:
            golden[f"{key}/{name}"] = recipe.summary(array(output))


def forward(golden: dict, official: types.SimpleNamespace, fork: types.SimpleNamespace) -> None:
    """Single networks."""
    x = tensor(recipe.images("forward"))
    sizes = {"ngf": recipe.WIDTH, "n_blocks": recipe.BLOCKS, "img_size": recipe.SIZE}
    for light in (False, True):
        generator = fill(official.networks.ResnetGenerator(3, 3, light=light, **sizes), "g_a2b")
        put(golden, f"pt/generator_light{int(light)}", generator(x))
    for depth in (5, 6):
        judge = fill(official.networks.Discriminator(3, recipe.WIDTH, depth), "d_global_a")
        put(golden, f"pt/discriminator{depth}_train", judge.train()(x))  # with one power step
        put(golden, f"pt/discriminator{depth}_eval", judge.eval()(x))
    variants = {
        "plain": {"light": -1},
        "light2": {"light": 2, "use_se": True},
        "masks": {"light": 1, "attention_gan": 3},
        "masks_input": {"light": 1, "attention_gan": 2, "attention_input": True, "use_se": True},
    }
    for name, options in variants.items():
        arguments = types.SimpleNamespace(**{"attention_gan": 0, "attention_input": False, "use_se": False, **options})
        generator = fill(fork.networks.ResnetGenerator(3, 3, args=arguments, **sizes), "g_a2b")
        put(golden, f"en/generator_{name}", generator(x))
    m = tensor(recipe.mask("forward"))
    for depth, sn, attend in ((6, True, True), (4, True, True), (3, True, False), (5, False, True)):
        judge = fill(fork.networks.Discriminator(3, recipe.WIDTH, depth, sn, attend), "d_global_a")
        judge.train()(x)
        judge.eval()
        put(golden, f"en/discriminator{depth}_{int(sn)}{int(attend)}", judge(x))
        put(golden, f"en/discriminator{depth}_{int(sn)}{int(attend)}_hidden", judge(x, x * m, m))


def changes(golden: dict, key: str, trainer: object, before: dict) -> None:
    for ours, theirs in NAMES.items():
        for name, parameter in getattr(trainer, theirs).named_parameters():
            change = parameter.detach().numpy() - before[theirs, name]
            golden[f"{key}/{ours}/{name}"] = recipe.footprint(name, change)


def optimizers(trainer: object, kind: str) -> None:
    generators = itertools.chain(trainer.genA2B.parameters(), trainer.genB2A.parameters())
    judges = itertools.chain(*(getattr(trainer, NAMES[name]).parameters() for name in NAMES if name[0] == "d"))
    for name, parameters in (("G_optim", generators), ("D_optim", judges)):
        if kind == "sgd":
            made = torch.optim.SGD(parameters, lr=recipe.RATE, weight_decay=recipe.L2)
        else:
            made = torch.optim.Adam(parameters, lr=recipe.RATE, betas=(0.5, 0.999), weight_decay=recipe.L2)
        setattr(trainer, name, made)


def snapshot(trainer: object) -> dict:
    return {
        (theirs, name): parameter.detach().numpy().copy()
        for theirs in NAMES.values()
        for name, parameter in getattr(trainer, theirs).named_parameters()
    }


class Endless:
    """A loader of one batch, whose iterator has Python 2's `next` too, as the official loop wants."""

    def __init__(self, batch: object) -> None:
        self.batch = batch

    def __iter__(self) -> Endless:
        return self

    def __next__(self) -> object:
        return self.batch

    next = __next__


def official_step(golden: dict, official: types.SimpleNamespace, kind: str) -> None:
    """One iteration of the official training loop."""
    trainer = object.__new__(official.UGATIT.UGATIT)
    for ours, theirs in NAMES.items():
        if ours[0] == "g":
            made = official.networks.ResnetGenerator(
                3, 3, ngf=recipe.WIDTH, n_blocks=recipe.STEP_BLOCKS, img_size=recipe.SIZE, light=True
            )
        else:
            made = official.networks.Discriminator(3, recipe.WIDTH, 6 if "global" in ours else 5)
        setattr(trainer, theirs, fill(made, ours, 3000 if ours[0] == "d" else 0))
    optimizers(trainer, kind)
    trainer.trainA_loader = Endless((tensor(recipe.images("a")), None))
    trainer.trainB_loader = Endless((tensor(recipe.images("b")), None))
    trainer.L1_loss, trainer.MSE_loss = torch.nn.L1Loss(), torch.nn.MSELoss()
    trainer.BCE_loss = torch.nn.BCEWithLogitsLoss()
    trainer.Rho_clipper = official.networks.RhoClipper(0, 1)
    trainer.__dict__.update(
        resume=False, iteration=1, decay_flag=False, lr=recipe.RATE, device="cpu", print_freq=10, save_freq=10,
        adv_weight=1, cycle_weight=10, identity_weight=10, cam_weight=1000, dataset="none", result_dir="none",
    )  # fmt: skip
    before, printed = snapshot(trainer), []
    with mock.patch("builtins.print", lambda *line: printed.append(line)):
        trainer.train()
    losses = next(line[0] for line in printed if "d_loss" in line[0])
    golden[f"pt/step_{kind}/losses"] = np.array([float(losses.split(f"{k}_loss: ")[1].split(",")[0]) for k in "dg"])
    changes(golden, f"pt/step_{kind}", trainer, before)


STEPS = {
    "plain": {"adv_weight": 2.0, "forward_adv_weight": 0.5, "backward_adv_weight": 1.5},
    "blur": {"has_blur": True, "cam_D_weight": 0.7},
    "background": {
        "seg_fix_weight": 50.0, "seg_D_mask": True, "seg_G_detach": True, "seg_D_cam_inp_mask": True,
        "seg_D_cam_fea_mask": True, "has_blur": True,
    },
    "nocam": {"cam_D_weight": -1, "cam_D_attention": False, "attention_gan": 2, "seg_D_cam_fea_mask": True},
}  # fmt: skip


def fork_step(golden: dict, fork: types.SimpleNamespace, name: str, kind: str) -> None:
    """One iteration of the fork's forward, backward_D, backward_G and clippers, in its loop's order."""
    defaults = {
        "adv_weight": 1.0, "forward_adv_weight": 1.0, "backward_adv_weight": 1.0, "cycle_weight": 10.0,
        "identity_weight": 10.0, "cam_weight": 1000.0, "has_blur": False, "cam_D_weight": 1.0, "cam_D_attention": True,
        "seg_fix_weight": -1, "seg_D_mask": False, "seg_G_detach": False, "seg_D_cam_inp_mask": False,
        "seg_D_cam_fea_mask": False, "tv_loss": False, "device": "cpu", "light": 1, "attention_gan": 0,
        "attention_input": False, "use_se": False,
    }  # fmt: skip
    arguments = types.SimpleNamespace(**{**defaults, **STEPS[name]})
    trainer = object.__new__(fork.UGATIT.UGATIT)
    trainer.args, trainer.use_seg = arguments, False
    for ours, theirs in NAMES.items():
        if ours[0] == "g":
            made = fork.networks.ResnetGenerator(
                3, 3, ngf=recipe.WIDTH, n_blocks=recipe.STEP_BLOCKS, img_size=recipe.SIZE, args=arguments
            )
        else:
            depth = 6 if "global" in ours else 4
            attend = arguments.cam_D_attention and arguments.cam_D_weight > 0
            made = fork.networks.Discriminator(3, recipe.WIDTH, depth, True, attend)
        setattr(trainer, theirs, fill(made, ours, 3000 if ours[0] == "d" else 0))
    optimizers(trainer, kind)
    trainer.L1_loss, trainer.MSE_loss = torch.nn.L1Loss(), torch.nn.MSELoss()
    trainer.BCE_loss = torch.nn.BCEWithLogitsLoss()
    # The fork's networks for faces are not needed: masks are given. Its "eroded" one is the same here.
    trainer.maskA = trainer.maskA_erode = tensor(recipe.mask("a"))
    trainer.maskB = trainer.maskB_erode = tensor(recipe.mask("b"))
    a, b = tensor(recipe.images("a")), tensor(recipe.images("b"))
    blur = (tensor(recipe.images("blur_a")), tensor(recipe.images("blur_b"))) if arguments.has_blur else None
    before = snapshot(trainer)
    painted = trainer.forward(a, b)
    ab, ab_cam, _, _, aba, _, _, ba, ba_cam, _, _, bab, _, _, aa, aa_cam, _, _, bb, bb_cam, _, _ = painted
    trainer.dis_train(True)
    trainer.D_optim.zero_grad()
    trainer.backward_D(a, b, ab, ba, blur)
    trainer.D_optim.step()
    trainer.dis_train(False)
    trainer.G_optim.zero_grad()
    trainer.backward_G(a, b, ab, ba, aba, bab, aa, bb, ab_cam, ba_cam, aa_cam, bb_cam)
    trainer.G_optim.step()
    for generator in (trainer.genA2B, trainer.genB2A):
        generator.apply(fork.networks.RhoClipper(0, 1, fork.networks.LIN))
        generator.apply(fork.networks.RhoClipper(0.0, 0.9, fork.networks.AdaLIN))
    golden[f"en/step_{name}_{kind}/losses"] = np.array(
        [trainer.discriminator_loss.item(), trainer.Generator_loss.item()]
    )
    changes(golden, f"en/step_{name}_{kind}", trainer, before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("official", help="clone of znxlwm/UGATIT-pytorch")
    parser.add_argument("fork", help="clone of zheng-yuwei/enhanced-UGATIT")
    parser.add_argument("output", help="the .npz to write")
    arguments = parser.parse_args()
    official, fork = load(arguments.official), load(arguments.fork)
    golden: dict[str, np.ndarray] = {}
    forward(golden, official, fork)
    for kind in ("sgd", "adam"):
        official_step(golden, official, kind)
    fork_step(golden, fork, "plain", "adam")
    for name in ("blur", "background", "nocam"):
        fork_step(golden, fork, name, "sgd")
    # One array a group: thousands of small files would be larger than their contents.
    names = sorted(golden)
    np.savez_compressed(
        arguments.output,
        names=np.array(names),
        sizes=np.array([golden[name].size for name in names]),
        values=np.concatenate([golden[name].reshape(-1) for name in names]),
    )
    print(f"{arguments.output}: {len(names)} arrays, {os.path.getsize(arguments.output)} bytes")


if __name__ == "__main__":
    main()
