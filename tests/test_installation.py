import pytest

from tfaclgan import installation
from tfaclgan.errors import UserError


def test_this_environment_is_fine():
    installation.require_tensorflow()


def test_missing_tensorflow_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(installation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"cpu\.lock") as caught:
        installation.require_tensorflow()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("installed", "refused"),
    [
        (["tensorflow-tpu"], False),
        (["tensorflow-cpu"], False),
        (["tensorflow", "tensorflow-cpu"], False),
        (["tensorflow-tpu", "tensorflow"], True),
        (["tensorflow-tpu", "tensorflow-cpu", "tf-nightly"], True),
    ],
)
def test_another_build_over_the_tpu_build_is_refused(monkeypatch, installed, refused):
    monkeypatch.setattr(installation, "_installed", lambda name: name in installed)
    if not refused:
        installation.require_tensorflow()
        return
    with pytest.raises(UserError, match="over tensorflow-tpu") as caught:
        installation.require_tensorflow()
    for name in installed:
        assert name in str(caught.value)
