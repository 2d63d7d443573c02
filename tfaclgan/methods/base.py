"""What a method is: data plus pure functions.

A method file gives a frozen `Config` (the paper's defaults), builds its networks, and writes one
loss function a phase. It holds no optimiser, strategy, summary or step counter: those belong to
`engine/` and `training/`. Nothing here imports Keras or TensorFlow, so flags can be made from the
configs of all methods in a few milliseconds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from tfaclgan.errors import UserError

Tensor = Any  # a tensor of the running Keras backend
Networks = Mapping[str, Any]  # {name: keras.Model}
Batch = Mapping[str, Tensor]  # "a", "b": float images [b, h, w, c] in [-1, 1]; more keys if the data has them
ImageShape = tuple[int, int, int]  # height, width, channels


class Loss(NamedTuple):
    """What a phase's loss function returns.

    terms: ordered {name: weighted scalar}, each a mean over the replica's images; their sum is
        minimised. The engine divides by the number of replicas.
    watch: {name: scalar} logged beside the terms and never differentiated.
    memory: {name: new value [b, *shape]} of what the method declares as its `memory`.
    carry: {name: tensor} for the phases that follow in the same data iteration, which find them, without
        gradient, in `context.carried`.
    """

    terms: dict[str, Tensor]
    watch: dict[str, Tensor] = {}  # noqa: RUF012 (a NamedTuple default is never mutated)
    memory: dict[str, Tensor] = {}  # noqa: RUF012
    carry: dict[str, Tensor] = {}  # noqa: RUF012


class Memory(NamedTuple):
    """State kept between data iterations for each image of the global batch, zero at the start.

    Checkpoints hold it as [global batch, *shape], so that it does not depend on the number of replicas.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"


class Context(Protocol):
    """What a loss may know besides weights and images; made by the engine.

    Draws are functions of (run seed, step, name, global sample): the same for one replica and for
    many, different on every replica. `shape[0]` is the replica's batch.

    replicas: how many replicas share the global batch.
    step: the data iteration, an integer tensor.
    memory: {name: [b, *shape]}, as the method's loss left it.
    carried: {name: tensor} from earlier phases of this data iteration.
    """

    replicas: int
    step: Tensor
    memory: Mapping[str, Tensor]
    carried: Mapping[str, Tensor]

    def normal(self, name: str, shape: tuple[int, ...]) -> Tensor: ...
    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor: ...
    def replica_mean(self, value: Tensor) -> Tensor:
        """The mean of `value` over all replicas, differentiable.

        Allowed only in phases that declare `cross_replica=True`.
        """
        ...


LossFunction = Callable[[Networks, Batch, Context, Any], Loss]


@dataclasses.dataclass(frozen=True)
class Phase:
    """One optimiser's turn.

    name: of the phase and of its optimiser in logs and checkpoints.
    networks: whose trainable weights it updates.
    loss: `loss(networks, batch, context, config) -> Loss`.
    every: due at steps 0, every, 2*every ... (ACL-GAN's generators: 2; lazy R1: 16).
    cross_replica: the loss calls `context.replica_mean`.
    power_step: names of the networks whose layers' `power_step()` is called once before this phase's gradient
        (spectral norms; forward passes never assign).
    """

    name: str
    networks: tuple[str, ...]
    loss: LossFunction
    every: int = 1
    cross_replica: bool = False
    power_step: tuple[str, ...] = ()


class Translation(NamedTuple):
    """A translated batch: image [b, h, w, c] in [-1, 1]; mask [b, h, w, 1] in [0, 1] and raw
    (the generator's colours before blending, [-1, 1]) or None where the method has none."""

    image: Tensor
    mask: Tensor | None = None
    raw: Tensor | None = None


LR_SCHEDULES = ("step", "linear")
WEIGHT_DECAY_ON = ("all", "kernels")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The paper's training settings; each is the default of the shared flag of the same name."""

    steps: int  # data iterations
    batch_size: int  # global, images per domain
    image_size: int  # pixels, side of the training crop
    load_size: int  # pixels, shorter side before cropping
    learning_rate: float
    beta_1: float
    beta_2: float
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.0  # coupled L2: weight_decay * w is added to the gradient
    weight_decay_on: str = "all"  # "all" trained weights, or "kernels": those of convolutions and dense layers
    lr_schedule: str = "step"  # "step", or "linear": constant, then linearly to 0 at `steps`
    lr_decay_steps: int = 0  # data iterations between decays; step: 0 is constant, linear: 0 decays at each of them
    lr_decay_factor: float = 0.5  # of "step"
    lr_decay_start: int = -1  # of "linear": data iterations at the full rate; -1: half of `steps`
    ema_decay: float = 0.0  # per step; 0: no moving average
    ema_start: float = 0.0  # share of `steps` in which the average is a copy of the weights; then it averages
    augment: str = "flip,crop"  # a preset or a list, see data/augment.py


@dataclasses.dataclass(frozen=True)
class Method:
    """A registered method.

    networks(config, image_shape) -> {name: keras.Model}: all variables exist on return; names of
        layers are given, so that weights have the same path in every process.
    phases(config) -> tuple[Phase, ...], in the order they run.
    translate(networks, images, style, direction, config) -> Translation; images float [-1, 1];
        style [b, style_dim] or None for methods without style.
    encode_style(networks, images, direction, config) -> [b, style_dim]: the style of reference
        images of the *target* domain of `direction`.
    style_dim(config): 0 where the method has no style.
    directions(config): those that were trained, e.g. ("a2b",).
    size_multiple / minimum_size (config) -> int: pixels; sides the networks accept.
    ema_networks: names of the networks worth averaging (the generators); those that a config has not are skipped.
    check(config, image_shape): raises UserError for settings that cannot work together.
    recipe_for(config) -> Recipe: the defaults of the shared flags where they depend on the config (e.g. on which
        published code it follows); None: always `recipe`.
    fixed_size(config): the networks take images of the training size only; others are resized for them.
    panels(networks, images, direction, config) -> {name: tensor}, in order: what a sample sheet or strip shows of
        images [b, h, w, c] in [-1, 1]. Pictures are [b, h, w, c] in [-1, 1]; names that start with "heat" are maps
        [b, h', w', 1], drawn in false colours between their own smallest and largest value. "translation" is there.
    memory(config, image_shape) -> {name: Memory}: what a loss keeps between data iterations (image pools).
    """

    name: str
    title: str
    paper: str
    config: type
    recipe: Recipe
    networks: Callable[[Any, ImageShape], dict[str, Any]]
    phases: Callable[[Any], tuple[Phase, ...]]
    translate: Callable[..., Translation]
    ema_networks: tuple[str, ...]
    directions: Callable[[Any], tuple[str, ...]]
    size_multiple: Callable[[Any], int]
    minimum_size: Callable[[Any], int]
    style_dim: Callable[[Any], int] = lambda config: 0
    encode_style: Callable[..., Tensor] | None = None
    check: Callable[[Any, ImageShape], None] = lambda config, image_shape: None
    recipe_for: Callable[[Any], Recipe] | None = None
    fixed_size: Callable[[Any], bool] = lambda config: False
    panels: Callable[..., dict[str, Tensor]] | None = None
    memory: Callable[[Any, ImageShape], dict[str, Memory]] = lambda config, image_shape: {}


def option(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    networks: bool = False,
) -> Any:
    """A `Config` field that becomes the flag `--METHOD.FIELD`.

    Args:
        default: the paper's value; its type (bool, int, float, str) is the flag's type.
        help: one sentence with unit and place in the paper.
        choices: allowed strings.
        minimum, maximum: inclusive bounds for numbers.
        networks: True if changing it changes weights' shapes or what the weights mean, so that a
            run directory made with another value must be refused.
    """
    metadata = {"help": help, "choices": choices, "minimum": minimum, "maximum": maximum, "networks": networks}
    return dataclasses.field(default=default, metadata=metadata)


def config_of(method: Method, values: Any) -> Any:
    """The method's config from a file's values; ValueError for one that its flag would not take."""
    if not isinstance(values, dict):
        raise ValueError(f"the options of {method.name} are {values!r}")
    config = method.config(**values)
    for field in dataclasses.fields(config):
        value, kind, data = getattr(config, field.name), type(field.default), field.metadata
        if kind is float and type(value) is int and abs(value) < 2**53:
            value = float(value)
        number = kind in (int, float)
        if (
            type(value) is not kind
            or (number and not abs(value) < (2**31 if kind is int else math.inf))
            or (number and data["minimum"] is not None and value < data["minimum"])
            or (number and data["maximum"] is not None and value > data["maximum"])
            or (data["choices"] and value not in data["choices"])
        ):
            raise ValueError(f"{method.name} cannot have {field.name} = {str(value)[:80]!r}")
    return config


_REGISTRY: dict[str, Method] = {}


def register(method: Method) -> Method:
    """Adds a method to the registry; called once at the end of each method file."""
    if method.name in _REGISTRY and _REGISTRY[method.name] is not method:
        raise ValueError(f"two methods are called {method.name!r}")
    _REGISTRY[method.name] = method
    return method


def names() -> list[str]:
    """Registered method names, sorted."""
    _load_all()
    return sorted(_REGISTRY)


def get(name: str) -> Method:
    """The method called `name`; UserError with the known names otherwise."""
    _load_all()
    if name not in _REGISTRY:
        raise UserError(f"--method={name}: unknown method; choose one of {', '.join(sorted(_REGISTRY))}")
    return _REGISTRY[name]


def _load_all() -> None:
    import importlib
    import pkgutil

    import tfaclgan.methods as package

    for module in pkgutil.iter_modules(package.__path__):
        if module.name != "base":
            importlib.import_module(f"{package.__name__}.{module.name}")
