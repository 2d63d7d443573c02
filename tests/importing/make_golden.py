"""Makes golden.zip: weight files written by the original codes, small and random, and what those codes compute.

    python tests/importing/make_golden.py ACL-GAN MUNIT UGATIT-PYTORCH ENHANCED-UGATIT CYCLEGAN golden.zip

The folders are clones of hyperplane-lab/ACL-GAN, NVlabs/MUNIT (a82e222), znxlwm/UGATIT-pytorch (b8c4251),
zheng-yuwei/enhanced-UGATIT (7dc7e39) and junyanz/pytorch-CycleGAN-and-pix2pix; torch is needed, and no other package
of theirs. Their own methods save the files; some in PyTorch's format from before 1.6, which is what was published.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import shutil
import sys
import tempfile
import types
from unittest import mock

import numpy as np

SIZE, BATCH, STYLE = 32, 2, 3
STEP = 350_000


def images(seed: int, side: int = SIZE) -> np.ndarray:
    """[b, h, w, 3] in (-1, 1), float32."""
    return np.tanh(np.random.RandomState(seed).standard_normal((BATCH, side, side, 3))).astype("float32")


def styles() -> np.ndarray:
    """[b, style]."""
    return np.random.RandomState(9).standard_normal((BATCH, STYLE)).astype("float32")


def few(array: np.ndarray) -> np.ndarray:
    """Every fourth pixel of large maps."""
    return array[:, ::4, ::4] if array.ndim == 4 and array.shape[1] > 8 else array


ABSENT = (
    "cv2", "PIL", "scipy", "scipy.misc", "scipy.stats", "tqdm", "yaml", "torchvision", "torchvision.transforms",
    "torchvision.utils", "torchvision.models", "torch.utils.serialization", "torch.utils.tensorboard", "faceseg",
    "faceseg.FaceSegmentation", "metrics", "dataset", "data", "dominate", "visdom",
)  # fmt: skip


def load(folder: str, *names: str) -> types.SimpleNamespace:
    """Modules of a clone."""
    for name in [
        n for n in sys.modules if n.split(".")[0] in ("networks", "utils", "UGATIT", "trainer", "models", "util")
    ]:
        del sys.modules[name]
    sys.path.insert(0, folder)
    with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in ABSENT}):
        modules = {name.split(".")[-1]: importlib.import_module(name) for name in names}
    sys.path.remove(folder)
    return types.SimpleNamespace(**modules)


@contextlib.contextmanager
def old_format():
    """Lets torch.save write as PyTorch before 1.6 did."""
    import torch

    with mock.patch.object(torch, "save", functools.partial(torch.save, _use_new_zipfile_serialization=False)):
        yield


def tensor(array):
    import torch

    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def array(t) -> np.ndarray:
    value = t.detach().numpy()
    return few(value.transpose(0, 2, 3, 1)) if value.ndim == 4 else value


def shake(network):
    """Random weights that no initialisation would give: biases, scales and rho too."""
    import torch

    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("rho"):
                parameter.uniform_(0.1, 0.88)
            elif parameter.ndim > 1 and name.endswith(("weight", "weight_orig")):
                parameter.normal_(0, float(np.sqrt(2 / np.prod(parameter.shape[1:]))))
            elif name.endswith(("gamma", "weight")):
                parameter.normal_(1, 0.2)
            else:
                parameter.normal_(0, 0.2)
            parameter.copy_((parameter * 64).round() / 64)  # such numbers can be packed
    return network.eval()


def munit_family(golden, folder, acl_folder, munit_folder):
    import torch

    sizes = {"dim": 1, "style_dim": STYLE, "n_downsample": 2, "n_res": 1, "mlp_dim": 4, "activ": "relu",
             "pad_type": "reflect", "output_dim": 4}  # fmt: skip
    judges = {"dim": 1, "norm": "none", "activ": "lrelu", "n_layer": 2, "gan_type": "lsgan", "num_scales": 2,
              "pad_type": "reflect"}  # fmt: skip
    x, z = tensor(images(1)), torch.from_numpy(styles())[:, :, None, None]

    code = load(acl_folder, "networks", "trainer")
    t = types.SimpleNamespace()
    t.gen_AB, t.gen_BA = (shake(code.networks.AdaINGen(3, sizes)) for _ in range(2))
    t.dis_A, t.dis_B = (shake(code.networks.MsImageDis(3, judges)) for _ in range(2))
    t.dis_2 = shake(code.networks.MsImageDis(6, judges))
    pairs = {"gen_opt": (t.gen_AB, t.gen_BA), "dis_opt": (t.dis_A, t.dis_B, t.dis_2)}
    for name, networks in pairs.items():
        parameters = [p for network in networks for p in network.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=1e-5, betas=(0.5, 0.999), weight_decay=1e-4)
        for _ in range(3 if name == "dis_opt" else 2):
            for i, parameter in enumerate(parameters):
                parameter.grad = (torch.arange(parameter.numel()).reshape(parameter.shape) % 7 + i / 100) / 8
            optimizer.step()
        setattr(t, name, optimizer)
    made = os.path.join(folder, "acl_gan")
    os.makedirs(made, exist_ok=True)
    with old_format():
        code.trainer.aclgan_Trainer.save(t, made, STEP - 1)
    raw = t.gen_AB.decode(t.gen_AB.encode(x)[0], z)
    colours, focus = raw.split(3, 1)
    golden["acl_gan/translation"] = array(code.trainer.aclgan_Trainer.focus_translation(t, colours, x, focus))
    golden["acl_gan/mask"] = array((focus + 1) / 2)
    golden["acl_gan/style"] = t.gen_AB.encode(x)[1].detach().numpy()[:, :, 0, 0]
    golden["acl_gan/back"] = array(t.gen_BA.decode(t.gen_BA.encode(x)[0], z))
    pair = torch.cat([x, tensor(images(2))], 1)
    for name, judge, seen in (("d_s", t.dis_A, x), ("d_t", t.dis_B, x), ("d_hat", t.dis_2, pair)):
        for i, scores in enumerate(judge(seen)):
            golden[f"acl_gan/{name}/{i}"] = array(scores)
    # Adam's moments of the weight behind a known name, and of the last one.
    for name, network, optimizer in (("g_s", t.gen_BA, t.gen_opt), ("d_hat", t.dis_2, t.dis_opt)):
        slot = optimizer.state[list(network.parameters())[-2]]
        golden[f"acl_gan/moments/{name}"] = np.stack([slot["exp_avg"].numpy(), slot["exp_avg_sq"].numpy()])

    code = load(munit_folder, "networks", "trainer")
    t = types.SimpleNamespace(
        gen_opt=types.SimpleNamespace(state_dict=dict), dis_opt=types.SimpleNamespace(state_dict=dict)
    )
    t.gen_a, t.gen_b = (shake(code.networks.AdaINGen(3, sizes)) for _ in range(2))
    t.dis_a, t.dis_b = (shake(code.networks.MsImageDis(3, judges)) for _ in range(2))
    made = os.path.join(folder, "munit")
    os.makedirs(made, exist_ok=True)
    code.trainer.MUNIT_Trainer.save(t, made, STEP - 1)
    os.remove(os.path.join(made, "optimizer.pt"))
    golden["munit/a2b"] = array(t.gen_b.decode(t.gen_a.encode(x)[0], z))
    golden["munit/b2a"] = array(t.gen_a.decode(t.gen_b.encode(x)[0], z))
    golden["munit/style"] = t.gen_b.encode(x)[1].detach().numpy()[:, :, 0, 0]
    for name, judge in (("d_a", t.dis_a), ("d_b", t.dis_b)):
        for i, scores in enumerate(judge(x)):
            golden[f"munit/{name}/{i}"] = array(scores)


UGATIT_NAMES = {"g_a2b": "genA2B", "g_b2a": "genB2A", "d_global_a": "disGA", "d_local_a": "disLA",
                "d_global_b": "disGB", "d_local_b": "disLB"}  # fmt: skip


def ugatit(golden, folder, official_folder, fork_folder):
    made = os.path.join(folder, "ugatit")
    os.makedirs(made, exist_ok=True)
    official = load(official_folder, "networks", "UGATIT")
    for kind, light in (("light", True), ("full", False)):
        trainer = types.SimpleNamespace(dataset=kind)
        for ours, theirs in UGATIT_NAMES.items():
            if ours[0] == "g":
                made_network = shake(
                    official.networks.ResnetGenerator(3, 3, ngf=1, n_blocks=1, img_size=SIZE, light=light)
                )
            else:
                made_network = settle(shake(official.networks.Discriminator(3, 1, 5)))
            setattr(trainer, theirs, made_network)
        with old_format():
            official.UGATIT.UGATIT.save(trainer, made, 1000)
        outputs(golden, f"ugatit_{kind}", trainer, UGATIT_NAMES)

    fork = load(fork_folder, "networks", "UGATIT")
    arguments = types.SimpleNamespace(light=2, use_se=True, attention_gan=2, attention_input=True, dataset="fork")
    trainer = types.SimpleNamespace(args=arguments)
    names = UGATIT_NAMES | {"g_a2b_ema": "genA2B_ema", "g_b2a_ema": "genB2A_ema"}
    for ours, theirs in names.items():
        if ours[0] == "g":
            network = shake(fork.networks.ResnetGenerator(3, 3, ngf=1, n_blocks=1, img_size=SIZE, args=arguments))
        else:
            network = settle(shake(fork.networks.Discriminator(3, 1, 5 if "global" in ours else 4, True, True)))
        setattr(trainer, theirs, network)
    with old_format():
        fork.UGATIT.UGATIT.save(trainer, made, 2000)
    outputs(golden, "ugatit_fork", trainer, names)
    os.remove(os.path.join(made, "fork_g_params_0002000.pt"))  # part of the other


def settle(judge):
    """As after some training: every pass makes a power step of the spectral norms."""
    judge.train()
    for _ in range(30):
        judge(tensor(images(3)))
    return judge.eval()


def outputs(golden, key, trainer, names):
    for ours, theirs in names.items():
        made = getattr(trainer, theirs)(tensor(images(1)))
        for name, output in zip(("image", "logits", "heatmap", "masks"), made, strict=False):
            if output is not None:
                golden[f"{key}/{ours}/{name}"] = array(output)


def cyclegan(golden, folder, code_folder):
    code = load(code_folder, "models.networks", "models.base_model")
    instance = code.networks.get_norm_layer("instance")
    x = tensor(images(1))
    kinds = {
        "cyclegan": {
            "G_A": code.networks.ResnetGenerator(3, 3, 1, instance, n_blocks=2),
            "G_B": code.networks.ResnetGenerator(3, 3, 1, instance, use_dropout=True, n_blocks=2),
            "D_A": code.networks.NLayerDiscriminator(3, 1, 3, instance),
            "D_B": code.networks.NLayerDiscriminator(3, 1, 3, instance),
        },
        "cyclegan_unet": {
            "G_A": code.networks.UnetGenerator(3, 3, 5, 1, instance),
            "D_A": code.networks.PixelDiscriminator(3, 2, instance),
        },
    }
    for kind, networks in kinds.items():
        made = os.path.join(folder, kind)
        os.makedirs(made, exist_ok=True)
        model = types.SimpleNamespace(model_names=list(networks), save_dir=made, gpu_ids=[])
        for name, network in networks.items():
            setattr(model, f"net{name}", shake(network))
            golden[f"{kind}/{name}"] = array(network(x))
        with old_format():
            code.base_model.BaseModel.save_networks(model, "latest")


def main(acl: str, munit: str, official: str, fork: str, cyclegan_folder: str, output: str) -> None:
    import torch

    folder = tempfile.mkdtemp()

    torch.manual_seed(0)
    golden: dict[str, np.ndarray] = {}
    munit_family(golden, folder, acl, munit)
    ugatit(golden, folder, official, fork)
    cyclegan(golden, folder, cyclegan_folder)
    np.savez(os.path.join(folder, "outputs.npz"), **golden)
    shutil.make_archive(output.removesuffix(".zip"), "zip", folder)
    shutil.rmtree(folder)
    print(f"{len(golden)} arrays, {os.path.getsize(output)} bytes in {output}")


if __name__ == "__main__":
    main(*sys.argv[1:])
