"""Makes council_golden.npz: what the official Council-GAN code computes in float64 from weights that a seed gives.

Needs PyTorch and a folder with the official code (Onr/Council-GAN):

    python tests/methods/make_council_golden.py FOLDER tests/methods/council_golden.npz

No weight is stored: each parameter is drawn from its official full name, by the same function (`value`) here and in
test_council_parity.py.
"""

from __future__ import annotations

import sys
import types
import zlib

import numpy as np

SIZE = 32
MEMBERS = 3
STYLE = 5
OPTIONS = {"width": 4, "residual_blocks": 2, "mlp_dim": 6, "discriminator_width": 4, "discriminator_layers": 2}
MODULES = {"g": "gen_a2b_s", "d": "dis_a2b_s", "c": "dis_council_a2b_s"}
WEIGHTS = {"gan": 24.0, "council": 12.0, "indecision": 10.0, "size": 57.0, "variation": 2.2}


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter of PyTorch's shape from its official name."""
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    return draw * np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1 * draw


def image(seed: int) -> np.ndarray:
    """[2, h, w, 3] in (-1, 1)."""
    return np.tanh(np.random.RandomState(seed).standard_normal((2, SIZE, SIZE, 3)))


def styles() -> np.ndarray:
    """[turn, phase, image, style]: fresh for discriminators, council and generators of two turns."""
    return np.random.RandomState(3).standard_normal((2, 3, 2, STYLE))


def settings() -> dict:
    """The official configuration of this size."""
    return {
        "lr": 1e-4, "beta1": 0.5, "beta2": 0.999, "weight_decay": 1e-4, "init": "kaiming", "display_size": 1,
        "gan_w": WEIGHTS["gan"], "council_w": WEIGHTS["council"], "council_abs_w": 0, "recon_x_w": 0, "recon_s_w": 0,
        "recon_c_w": 0, "recon_x_cyc_w": 0, "vgg_w": 0, "abs_beginning_end": 0,
        "mask_total_w": WEIGHTS["size"], "mask_zero_or_one_w": WEIGHTS["indecision"],
        "mask_tv_w": WEIGHTS["variation"], "batch_size": 2, "do_w_loss_matching": True,
        "loss_matching_hist_size": 7, "do_a2b": True, "do_b2a": False, "input_dim_a": 3, "input_dim_b": 3,
        "focus_loss": {
            "mask_zero_or_one_center": 0.5, "mask_zero_or_one_epsilon": 0.01, "mask_small_use_abs": False,
            "mask_small_use_square": True, "focus_loss_start_at_iter": 0, "do_w_loss_matching_focus": False,
        },
        "gen": {
            "dim": OPTIONS["width"], "mlp_dim": OPTIONS["mlp_dim"], "style_dim": STYLE, "do_my_style": False,
            "activ": "relu", "n_downsample": 2, "n_res": OPTIONS["residual_blocks"], "pad_type": "zero",
            "useRandomDis": False, "num_of_mask_dim_to_add": 3,
        },
        "dis": {
            "dim": OPTIONS["discriminator_width"], "norm": "none", "activ": "lrelu",
            "n_layer": OPTIONS["discriminator_layers"], "gan_type": "lsgan", "num_scales": 2, "pad_type": "zero",
            "useRandomGen": False, "do_Dis_only_gray": False,
        },
        "council": {
            "council_size": MEMBERS, "numberOfCouncil_dis_relative_iteration": 4, "flipOnOff": False,
            "flipOnOff_start_with": True, "flipOnOff_On_iteration": 45, "flipOnOff_Off_iteration": 5,
            "discriminetro_less_style_by": 0.7, "council_start_at_iter": 0,
        },
    }  # fmt: skip


def main(folder: str, output: str) -> None:
    sys.path.insert(0, folder)
    import torch

    torch.set_default_dtype(torch.float64)
    torch.Tensor.cuda = lambda self, *_, **__: self
    torch.nn.Module.cuda = lambda self, *_, **__: self
    # On a GPU this copies. Without a copy the code's in-place product would change the terms it has just remembered.
    torch.Tensor.cpu = lambda self: self.clone()
    absent = types.ModuleType("utils")  # it needs packages that the losses do not
    for name in ("get_model_list", "vgg_preprocess", "load_vgg16", "get_scheduler"):
        setattr(absent, name, lambda *_, **__: None)
    absent.weights_init = lambda kind: lambda module: None
    sys.modules["utils"] = absent
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "scipy"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
    sys.modules["torchvision.transforms"].functional = sys.modules["torchvision.transforms.functional"]
    sys.modules["scipy"].ndimage = None
    import networks
    import trainer_council

    def counts(config):
        generator = networks.AdaINGen(3, config["gen"], cuda_device="cpu")
        judges = networks.MsImageDis(3, config["dis"], "cpu"), networks.MsImageDisCouncil(3, config["dis"], "cpu")
        parts = (generator, generator.enc_style, *judges)
        return [sum(p.numel() for p in part.parameters()) for part in parts]

    def tensor(images):
        return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))

    def array(t):  # every third pixel
        return t.detach().numpy().transpose(0, 2, 3, 1)[:, ::3, ::3]

    golden = {}
    full = settings()
    full["gen"] |= {"dim": 64, "mlp_dim": 256, "style_dim": 64, "n_res": 5}
    full["dis"] |= {"dim": 64, "n_layer": 4}
    golden["parameters"] = counts(full)  # generator, its style encoder, discriminator, council discriminator

    config = settings()
    trainer = trainer_council.Council_Trainer(config, cuda_device="cpu")
    with torch.no_grad():
        for name, parameter in trainer.named_parameters():
            parameter.copy_(torch.from_numpy(value(name, tuple(parameter.shape))))
    a, b = tensor(image(1)), tensor(image(2))
    z = styles()
    for i in range(MEMBERS):
        content, _ = trainer.gen_a2b_s[i].encode(a)
        out, masks = trainer.gen_a2b_s[i].decode(content, torch.from_numpy(z[0, 0])[:, :, None, None], a, True)
        if i == 1:
            golden["image"], golden["masks"] = array(out), array(masks)
    golden["d"] = np.array([s.mean().item() for s in trainer.dis_a2b_s[1](a)])
    golden["c"] = np.array([s.mean().item() for s in trainer.dis_council_a2b_s[1](a, b)])

    # Of the colleagues left, always the first: with 4 comparisons and 3 members the discriminators see both colleagues
    # and the first of them again, and the loop ends at 3.
    trainer_council.random.choice = lambda sequence: sequence[0]
    queue = []
    torch.randn = lambda *_, **__: queue.pop(0)
    for turn in (0, 1):
        config["iteration"] = turn
        d_style, c_style, g_style = (torch.from_numpy(s)[:, :, None, None] for s in z[turn])
        # A step draws s_a only where b -> a is trained; the generators' step always draws both.
        queue[:] = [d_style]
        trainer.dis_update(a, b, config)
        queue[:] = [c_style]
        trainer.dis_council_update(a, b, config)
        queue[:] = [g_style, g_style]
        trainer.gen_update(a, b, config, turn)
        golden[f"{turn}/discriminators"] = np.array([loss.item() for loss in trainer.loss_dis_total_s])
        golden[f"{turn}/council"] = np.array([loss.item() for loss in trainer.loss_dis_council_total_s])
        golden[f"{turn}/generators"] = np.array([loss.item() for loss in trainer.loss_gen_total_s])
        golden[f"{turn}/adversarial"] = np.array([loss.item() for loss in trainer.loss_gen_adv_a2b_s])
        golden[f"{turn}/heard"] = np.array([loss.item() for loss in trainer.council_loss_ab_s])
    np.savez_compressed(output, **golden)
    print({k: np.shape(v) for k, v in golden.items()}, golden["parameters"])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
