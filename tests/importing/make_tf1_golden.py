"""Makes golden_tf1.zip: checkpoints of U-GAT-IT's TensorFlow 1 code, small, and what that code computes with them.

    TF_USE_LEGACY_KERAS=1 python tests/importing/make_tf1_golden.py UGATIT golden_tf1.zip

UGATIT is a clone of taki0112/UGATIT (d508e8f). Beside this package's environment only tf_keras is needed, for
`tf.layers`. The code runs on tf.compat.v1: its own `train` makes three data iterations and its own `save` writes. What
TensorFlow 2 lacks of tf.contrib (instance norm, three helpers of tf.data) is put in its place here.
"""

from __future__ import annotations

import glob
import importlib
import os
import shutil
import sys
import tempfile
import types
from unittest import mock

import numpy as np

os.environ["TF_USE_LEGACY_KERAS"] = "1"

SIZE, BATCH = 32, 2
ITERATIONS = 3
RUNS = {
    "tf_full": {"light": False, "smoothing": True, "sn": True},
    "tf_light": {"light": True, "smoothing": False, "sn": False},
}


def arguments(**changes) -> types.SimpleNamespace:
    """What the code's main.py would parse."""
    settings = {
        "phase": "train", "light": False, "dataset": "tiny", "epoch": 1, "iteration": ITERATIONS, "batch_size": BATCH,
        "print_freq": 1000, "save_freq": 1000, "decay_flag": True, "decay_epoch": 50, "lr": 1e-4, "GP_ld": 10,
        "adv_weight": 1, "cycle_weight": 10, "identity_weight": 10, "cam_weight": 1000, "gan_type": "lsgan",
        "smoothing": True, "ch": 1, "n_res": 4, "n_dis": 4, "n_critic": 1, "sn": True, "img_size": SIZE, "img_ch": 3,
        "augment_flag": False, "checkpoint_dir": "checkpoint", "result_dir": "results", "log_dir": "logs",
        "sample_dir": "samples",
    }  # fmt: skip
    return types.SimpleNamespace(**{**settings, **changes})


def load(folder: str):
    """The code's module UGATIT on tf.compat.v1, and that."""
    import tensorflow

    tf = tensorflow.compat.v1
    tf.disable_v2_behavior()

    def instance_norm(inputs, epsilon, center, scale, scope):
        assert center
        assert scale
        with tf.variable_scope(scope):
            channels = [inputs.shape[-1]]
            beta = tf.get_variable("beta", channels, initializer=tf.zeros_initializer())
            gamma = tf.get_variable("gamma", channels, initializer=tf.ones_initializer())
            mean, variance = tf.nn.moments(inputs, [1, 2], keep_dims=True)
            return tf.nn.batch_normalization(inputs, mean, variance, beta, gamma, epsilon)

    contrib = types.ModuleType("tensorflow.contrib")
    contrib.layers = types.SimpleNamespace(
        instance_norm=instance_norm, l2_regularizer=lambda scale: lambda weight: scale * tf.nn.l2_loss(weight)
    )
    contrib.slim = mock.MagicMock()
    data = types.ModuleType("tensorflow.contrib.data")
    data.shuffle_and_repeat = lambda size: lambda dataset: dataset.shuffle(size).repeat()
    data.map_and_batch = lambda function, batch, **options: (
        lambda dataset: dataset.map(function).batch(batch, drop_remainder=True)
    )
    data.prefetch_to_device = lambda device, size: lambda dataset: dataset
    tf.contrib = contrib
    for name in ("UGATIT", "ops", "utils"):
        sys.modules.pop(name, None)
    stand_ins = {"tensorflow": tf, "tensorflow.contrib": contrib, "tensorflow.contrib.data": data}
    absent = {name: mock.MagicMock() for name in ("cv2", "scipy", "scipy.misc")}
    sys.path.insert(0, folder)
    try:
        with mock.patch.dict(sys.modules, {**stand_ins, **absent}):
            return importlib.import_module("UGATIT"), tf
    finally:
        sys.path.remove(folder)


def images(seed: int) -> np.ndarray:
    """[b, h, w, 3] in (-1, 1), float32; as in make_golden.py."""
    return np.tanh(np.random.RandomState(seed).standard_normal((BATCH, SIZE, SIZE, 3))).astype("float32")


def write_data() -> None:
    """Two pictures for each domain, where the code looks for them."""
    from PIL import Image

    for domain in "AB":
        folder = f"dataset/tiny/train{domain}"
        os.makedirs(folder, exist_ok=True)
        for number in range(2):
            pixels = np.random.RandomState(10 * number + ord(domain)).randint(0, 256, (SIZE, SIZE, 3))
            Image.fromarray(np.uint8(pixels)).save(f"{folder}/{number}.jpg")


def outputs_of(model, tf) -> dict:
    """Our name / output: tensor, for images(1)."""
    x = tf.constant(images(1))
    made = {}
    for ours, scope in (("g_a2b", "generator_B"), ("g_b2a", "generator_A")):
        image, logits, heatmap = model.generator(x, reuse=True, scope=scope)
        made |= {f"{ours}/image": image, f"{ours}/logits": logits, f"{ours}/heatmap": heatmap[..., None]}
    for domain in "AB":
        scores, logits, local_heatmap, global_heatmap = model.discriminator(
            x, reuse=True, scope=f"discriminator_{domain}"
        )
        heatmaps = {"local": local_heatmap, "global": global_heatmap}
        for number, scale in enumerate(("local", "global")):
            ours = f"d_{scale}_{domain.lower()}"
            made |= {f"{ours}/image": scores[number], f"{ours}/logits": logits[number]}
            made |= {f"{ours}/heatmap": heatmaps[scale][..., None]}
    return made


def shaken(shape: list[int], name: str, random: np.random.RandomState) -> np.ndarray:
    """Random weights that no initialisation would give: biases, scales and rho too."""
    if name.endswith("/rho"):
        return random.uniform(0.1, 0.9, shape)
    if name.endswith("/gamma"):
        return random.normal(1, 0.2, shape)
    if name.endswith("/kernel"):
        return random.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
    return random.normal(0, 0.2, shape)


def main(folder: str, output: str) -> None:
    folder, output = os.path.abspath(folder), os.path.abspath(output)
    code, tf = load(folder)
    made = tempfile.mkdtemp()
    golden = {}
    for run, settings in RUNS.items():
        work = tempfile.mkdtemp()
        os.chdir(work)
        write_data()
        tf.reset_default_graph()
        tf.set_random_seed(0)
        options = tf.ConfigProto()  # rewriting takes longer than it saves
        options.graph_options.rewrite_options.disable_meta_optimizer = True
        with tf.Session(config=options) as session:
            model = code.UGATIT(session, arguments(**settings))
            model.build_model()
            tensors = outputs_of(model, tf)

            def begin(checkpoint_dir, session=session, tensors=tensors):
                """In place of `load`: other weights, and spectral norms as after some training."""
                random = np.random.RandomState(5)
                variables = tf.trainable_variables()
                values = {v.initializer.inputs[1]: shaken(v.shape.as_list(), v.op.name, random) for v in variables}
                session.run([variable.initializer for variable in variables], values)
                for _ in range(30):
                    session.run(tensors)
                return False, 0

            model.load = begin
            with mock.patch.object(code, "save_images"):
                model.train()
            golden |= {f"{run}/{name}": value for name, value in session.run(tensors).items()}
            # One of Adam's moments by our name, and rho after its constraint.
            scope = "generator_A/adaptive_resblock3/res2"
            names = [f"{scope}/conv_0/conv2d/kernel/Adam{end}:0" for end in ("", "_1")]
            golden[f"{run}/moments"] = np.stack(session.run(names))
        (written,) = glob.glob("checkpoint/*")
        shutil.move(written, os.path.join(made, os.path.basename(written)))
        for graph in glob.glob(os.path.join(made, "*", "*.meta")):
            os.remove(graph)  # large, and nothing here reads it
        os.chdir(made)
        shutil.rmtree(work)
    np.savez("outputs.npz", **golden)
    shutil.make_archive(output.removesuffix(".zip"), "zip", made)
    os.chdir("/")
    shutil.rmtree(made)
    print(f"{len(golden)} arrays, {os.path.getsize(output)} bytes in {output}")


if __name__ == "__main__":
    main(*sys.argv[1:])
