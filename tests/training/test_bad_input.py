"""What a user can get wrong: each a clear message, and nothing half-written that looks whole."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import COMPUTED, Row, make_rows, make_spec, metrics_of, same_weights

from humpback.errors import InputError, MissingDependencyError, StorageError
from humpback.formats import Chosen
from humpback.recipe import Recipe
from humpback.training import launch
from humpback.training.checkpoints import publish_checkpoint
from humpback.training.rows import check_fit, read_rows
from humpback.training.spec import LESS_MEMORY, TrainSpec

pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("default")  # trl and its neighbours warn about themselves


def run(spec: TrainSpec) -> None:
    from humpback.training import sft

    sft.run(spec)


def changed_base(base: Path, folder: Path, change: Callable[[dict[str, Any]], None], file: str = "config.json") -> Path:
    shutil.copytree(base, folder)
    values = json.loads((folder / file).read_text())
    change(values)
    (folder / file).write_text(json.dumps(values))
    return folder


def test_a_row_longer_than_the_context_is_refused_by_name(tmp_path: Path, base: Path) -> None:
    short = changed_base(base, tmp_path / "short", lambda config: config.update(max_position_embeddings=20))
    rows = make_rows(10)
    first = next(i for i, (ids, _) in enumerate(rows) if len(ids) > 20)
    with pytest.raises(InputError, match=rf"row{first}: longer than the 20 tokens of the context of .*short"):
        run(make_spec(tmp_path, short, rows=rows))


def test_a_token_the_model_does_not_know_is_refused_by_name(tmp_path: Path, base: Path) -> None:
    rows: list[Row] = [*make_rows(3), ([5, 96, 7], [-100, 96, 7])]
    spec = make_spec(tmp_path, base, rows=rows)
    with pytest.raises(InputError, match=r"row3: a token outside the 96 .* another tokenizer"):
        check_fit(read_rows(spec.data), base)


def test_one_row_is_trained_on_in_every_place_of_a_batch(tmp_path: Path, base: Path) -> None:
    rows = make_rows(1)
    spec = make_spec(tmp_path, base, rows=rows, steps=2)
    run(spec)
    assert [line["tokens"] for line in metrics_of(spec)] == [4 * len(rows[0][0])] * 2
    assert (spec.output / "model.safetensors").is_file()


def test_a_tokenizer_without_padding_token_and_chat_template_is_enough(tmp_path: Path, base: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(base, bare)
    (bare / "chat_template.jinja").unlink()
    values = json.loads((bare / "tokenizer_config.json").read_text())
    del values["pad_token"]
    (bare / "tokenizer_config.json").write_text(json.dumps(values))
    whole, spec = make_spec(tmp_path / "whole", base, steps=2), make_spec(tmp_path / "spec", bare, steps=2)
    run(whole)
    run(spec)
    assert same_weights(whole.output, spec.output)
    config = json.loads((spec.output / "config.json").read_text())
    assert config.get("pad_token_id") is None  # nothing is put into the model that its maker left out


def test_weights_of_another_architecture_are_refused(tmp_path: Path, base: Path) -> None:
    deeper = changed_base(base, tmp_path / "deeper", lambda config: config.update(num_hidden_layers=3))
    with pytest.raises(
        InputError,
        match=r"not those of the LlamaForCausalLM .* missing, such as model\.layers\.2[\w.]+; give the config",
    ):
        run(make_spec(tmp_path / "a", deeper))
    shallow = changed_base(base, tmp_path / "shallow", lambda config: config.update(num_hidden_layers=1))
    with pytest.raises(InputError, match=r"not asked for, such as model\.layers\.1"):
        run(make_spec(tmp_path / "b", shallow))
    wider = changed_base(base, tmp_path / "wider", lambda config: config.update(intermediate_size=256))
    with pytest.raises(InputError, match=r"wider.*mismatch"):
        run(make_spec(tmp_path / "c", wider))


def test_an_architecture_that_transformers_does_not_know_is_told_in_a_line(tmp_path: Path, base: Path) -> None:
    unknown = changed_base(base, tmp_path / "unknown", lambda config: config.update(model_type="nonsense"))
    with pytest.raises(
        InputError, match=r"^base model .*unknown: transformers 5\.\S+ cannot tell .*`nonsense`.*newer"
    ) as told:
        run(make_spec(tmp_path / "a", unknown))
    assert "pip install" not in str(told.value)


@pytest.mark.parametrize("where", ["while_loading", "in_a_step"])
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_too_little_memory_is_told_with_what_needs_less_and_blames_no_folder(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, where: str, device: str
) -> None:
    import torch

    from humpback.training import sft, weights

    def fail(*_: object, **__: object) -> object:
        if device == "cpu":
            torch.empty(1 << 50)  # more than can be addressed; torch has no error of its own for it
        raise torch.OutOfMemoryError("CUDA out of memory")

    if where == "while_loading":
        monkeypatch.setattr(weights.AutoModelForCausalLM, "from_pretrained", fail)
    else:
        monkeypatch.setattr(sft.Trainer, "train", fail)
    spec = make_spec(tmp_path, base)
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    assert sft.main([str(tmp_path / "spec.json")]) == 1
    told = json.loads((spec.work / "failed.json").read_text())["message"]
    words = "RuntimeError: .*DefaultCPUAllocator.*" if device == "cpu" else "OutOfMemoryError: CUDA out of memory"
    assert re.match(rf"{words}; what needs less memory", told)


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left"),
        (
            RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file"),
            "failed writing",
        ),
    ],
    ids=["system", "torch"],
)
def test_a_disk_that_fills_up_during_a_checkpoint_is_told_and_leaves_the_one_before(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, text: str
) -> None:
    from humpback.training import trainer

    original = trainer.Trainer._save_rng_state

    def fill(self: Any, folder: str) -> None:
        if self.state.global_step == 4:
            raise failure
        original(self, folder)

    monkeypatch.setattr(trainer.Trainer, "_save_rng_state", fill)
    spec = make_spec(tmp_path, base, save_every=2, steps=6)
    with pytest.raises(StorageError, match=rf"checkpoint of step 4 cannot be written.*{text}.*MiB were free"):
        run(spec)
    assert [path.name for path in spec.work.glob("checkpoint*")] == ["checkpoint-2"]
    assert not spec.output.exists()
    monkeypatch.undo()
    run(spec)  # goes on from the one before
    whole = make_spec(tmp_path / "whole", base, steps=6)
    run(whole)
    assert same_weights(whole.output, spec.output)


def test_a_disk_that_fills_up_while_the_model_is_written_is_told_and_the_last_checkpoint_stays(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError
    from transformers import PreTrainedModel

    original = PreTrainedModel.save_pretrained

    def fill(self: Any, folder: Any, *args: Any, **kwargs: Any) -> None:
        original(self, folder, *args, **kwargs)
        if Path(folder).name == "model.tmp":
            raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", fill)
    spec = make_spec(tmp_path, base, save_every=2, steps=3)
    with pytest.raises(StorageError, match=r"^the model cannot be written to .*No space left.*MiB were free.*are kept"):
        run(spec)
    assert not spec.output.exists()
    assert not list(tmp_path.glob("*.tmp"))
    assert [path.name for path in spec.work.glob("checkpoint*")] == ["checkpoint-2"]
    monkeypatch.undo()
    run(spec)
    whole = make_spec(tmp_path / "whole", base, steps=3)
    run(whole)
    assert same_weights(whole.output, spec.output)


def test_a_trainer_that_had_no_room_to_say_so_is_found_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from humpback.training import sft

    def full(path: Path, value: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sft, "write_json", full)
    assert sft._tell(tmp_path, "what was wrong", 1) == 1
    assert "error: what was wrong" in capsys.readouterr().err
    assert "full" not in str(launch._failure(1, tmp_path))
    nothing = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(launch.shutil, "disk_usage", lambda path: nothing)
    told = str(launch._failure(1, tmp_path))
    assert f"ended with status 1 and the disk that holds {tmp_path} is full: free some space; log:" in told


def test_a_place_that_cannot_be_written_to_is_told(tmp_path: Path, base: Path) -> None:
    (tmp_path / "file").write_text("")
    spec = make_spec(tmp_path, base, output=tmp_path / "file" / "model", work=tmp_path / "file" / "work")
    with pytest.raises(StorageError, match="a part of that path is a file"):
        launch.train(spec)


def test_4_bit_training_without_bitsandbytes_names_it_and_what_to_do(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(tmp_path, base, method="qlora")
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else name)
    with pytest.raises(
        MissingDependencyError, match="qlora needs bitsandbytes: pip install bitsandbytes; or use method=lora"
    ):
        launch.train(spec)
    with pytest.raises(MissingDependencyError, match="qlora needs bitsandbytes"):  # started without a parent
        run(spec)


def test_weights_in_4_bits_are_not_split_over_gpus(tmp_path: Path, base: Path) -> None:
    with pytest.raises(ValueError, match=r"does not split weights held in 4 bits \(method=qlora\)"):
        make_spec(tmp_path, base, method="qlora", processes=2, sharding="full")


def test_a_checkpoint_of_another_sharding_is_refused(tmp_path: Path, base: Path) -> None:
    from humpback.training import sft

    spec = make_spec(tmp_path, base, processes=2)
    written = spec.work / "checkpoint.tmp" / "checkpoint-5"
    written.mkdir(parents=True)
    (written / "trainer_state.json").write_text('{"global_step": 5}')
    publish_checkpoint(written, spec.work, processes=2, sharding="full", sittings=(), keep=1)
    with pytest.raises(
        InputError, match=r"sharding=none, but .*checkpoint-5 was trained with sharding=full.*Set sharding back to full"
    ):
        sft._begin(spec, {"examples": 10}, Chosen(format="float32", reason="told"), COMPUTED)
    assert (spec.work / "checkpoint-5").is_dir()


def test_a_damaged_checkpoint_is_told_though_the_one_before_it_is_refused(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from humpback.training import sft

    spec = make_spec(tmp_path, base)
    for step in (5, 10):
        written = spec.work / "checkpoint.tmp" / f"checkpoint-{step}"
        written.mkdir(parents=True)
        (written / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
        publish_checkpoint(written, spec.work, processes=2, sharding="none", sittings=(), keep=2)
    (spec.work / "checkpoint-10" / "trainer_state.json").write_text("")
    with pytest.raises(InputError, match=r"processes=1, but .*checkpoint-5 was trained by 2"):
        sft._begin(spec, {"examples": 10}, Chosen(format="float32", reason="told"), COMPUTED)
    assert not (spec.work / "checkpoint-10").exists()
    assert "checkpoint-10 cannot be used" in capsys.readouterr().out


def test_early_stopping_without_held_out_rows_is_refused(tmp_path: Path, base: Path) -> None:
    for wrong in ({"patience": 2}, {"keep": "best"}):
        with pytest.raises(ValueError, match="need rows in held_out"):
            make_spec(tmp_path, base, **wrong)


def test_more_processes_than_gpus_and_a_model_split_over_cpus_are_refused(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from humpback.training import sft

    with pytest.raises(InputError, match="processes=3, but 1 run; start them with torchrun --nproc-per-node 3"):
        run(make_spec(tmp_path, base, processes=3))
    monkeypatch.setattr(sft, "TOGETHER", 3)
    with pytest.raises(InputError, match="sharding=full needs GPUs"):
        run(make_spec(tmp_path, base, processes=3, sharding="full"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="processes=3, but torch sees 2 CUDA devices"):
        run(make_spec(tmp_path, base, processes=3, device="cuda"))


def test_what_needs_less_memory_is_said_by_keys_that_can_be_set() -> None:
    assert set(re.findall(r"[a-z]+\.[a-z_.]*[a-z_]", LESS_MEMORY)) == {
        "runtime.train_batch_tokens",
        "runtime.training.recompute",
        "train.method",
        "model.base",
    }
    changes = {"runtime": {"train_batch_tokens": 64, "training": {"recompute": True}}, "train": {"method": "qlora"}}
    inputs = {"inputs": [{"path": "somewhere"}]}
    Recipe.model_validate({"model": {"base": "m"}, "seed": inputs, "corpus": inputs, **changes})
    own = re.search(r"spec of its own: (.*)\)", LESS_MEMORY)
    assert own
    assert set(own[1].split(", ")) <= set(TrainSpec.model_fields)
