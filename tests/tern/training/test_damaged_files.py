"""A damaged checkpoint or history of a training is named with its problem and what to do; nothing else is raised."""

import io
from types import SimpleNamespace

import pytest
import torch

from tern.training import read_history
from tern.training.checkpoint import STATE, load_checkpoint
from tern.training.history import write_history
from tests.helpers.epochs import make_epoch


def save(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


STATES = {
    "empty": b"",
    "text": b"epoch 3",
    "half a file": save({"key": "k", "model": torch.zeros(1000)})[:2000],
    "a list": save([1, 2]),
    "a number": save(3),
    "nothing but a key": save({"key": "k"}),
    "a text for the state": save({"key": "k", "model": "x"}),
    "other weights": save({"key": "k", "model": {"weight": torch.zeros(7)}}),
}


@pytest.mark.parametrize("name", STATES)
def test_damaged_checkpoint_is_named(name, tmp_path):
    (tmp_path / STATE).write_bytes(STATES[name])
    trainer = SimpleNamespace(device="cpu", epoch=0, step=0, stateful_parts=lambda: {"model": torch.nn.Linear(2, 2)})
    with pytest.raises(ValueError, match=r"is not a readable checkpoint.*delete it to train from the first") as found:
        load_checkpoint(tmp_path, "k", trainer)
    assert str(tmp_path / STATE) in str(found.value)
    assert "\n" not in str(found.value)


def test_history_is_read_as_it_was_written(tmp_path):
    epochs = [make_epoch(1), make_epoch(2)]
    write_history(tmp_path / "history.csv", epochs)
    assert read_history(tmp_path / "history.csv") == epochs


HEAD = "epoch,loss,lr,i2t_r1,i2t_r5,i2t_r10,i2t_medr,i2t_meanr,t2i_r1,t2i_r5,t2i_r10,t2i_medr,t2i_meanr,rsum"
ROW = "1,0.5,0.1,1,2,3,4,5,1,2,3,4,5,14"
HISTORIES = {
    "": "has no epochs",
    HEAD: "has no epochs",
    f"{HEAD}\n{ROW}\n1,2": "line 3: ",
    f"{HEAD}\n{ROW.replace('0.5', 'x')}": "line 2: could not convert",
    f"{HEAD.replace('epoch', 'step')}\n{ROW}": "line 2: no column 'epoch'",
    f"{HEAD.replace('rsum', 'sum')}\n{ROW}": "line 2: no column 'rsum'",
    f"{HEAD}\n{ROW.replace('1,0.5', 'nan,0.5')}": "line 2: ",
    f"{HEAD}\n{ROW.replace('1,0.5', 'inf,0.5')}": "line 2: ",
}


@pytest.mark.parametrize("text", HISTORIES)
def test_damaged_history_is_named_with_its_line(text, tmp_path):
    path = tmp_path / "history.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=HISTORIES[text]) as found:
        read_history(path)
    assert str(path) in str(found.value)
