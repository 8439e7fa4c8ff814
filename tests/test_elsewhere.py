"""Weights that transformers, timm or peft have filled are written only by rules that name them."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, BertModel

from lightning_init import InitConfigError, InitWarning, InitWeightsCallback, build_plan, init_weights, initialize
from tests.models import Holder, constant, digests, linear, pretrained, value, values
from tests.trainers import Net, trainer

HEAD = ["classifier.weight", "classifier.bias"]
LOADED = "transformers (from_pretrained)"


def config() -> BertConfig:
    return BertConfig(
        vocab_size=10,
        max_position_embeddings=8,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an encoder without a head."""
    folder = tmp_path_factory.mktemp("bert")
    BertModel(config()).save_pretrained(folder)
    return folder


@pytest.fixture
def bert(folder: Path) -> BertForSequenceClassification:
    """The encoder, loaded, below a head that the checkpoint lacks."""
    return BertForSequenceClassification.from_pretrained(folder)


def encoder_of(net: nn.Module) -> dict[str, str]:
    return {name: told for name, told in digests(net).items() if ".bert." in name}


class TestTransformers:
    def test_a_rule_by_layer_leaves_loaded_weights_alone_and_fills_the_head(self, bert: nn.Module) -> None:
        net = Holder(constant(2), bert=bert, head=linear())
        before = encoder_of(net)
        report = init_weights(net)
        assert encoder_of(net) == before
        assert value(net.get_parameter("bert.classifier.weight")) == 2
        assert value(net.get_parameter("head.weight")) == 2
        row = report["bert.bert.pooler.dense.weight"]
        assert (row.source, row.written_by, row.kept_by) == (None, "kept", LOADED)
        assert report["bert.classifier.weight"].kept_by is None
        assert report.untouched == []
        assert LOADED in str(report)
        assert LOADED in report.to_markdown()

    def test_it_says_what_it_left_alone_and_what_would_write_it(self, bert: nn.Module) -> None:
        report = init_weights(Holder(constant(2), bert=bert, head=linear()))
        found = [note for note in report.notes if "leaves alone" in note]
        assert len(found) == 1
        assert found[0].startswith(
            f"Holder.init_cfg: leaves alone what {LOADED} has filled, bert.bert.encoder.layer.0."
        )
        assert found[0].endswith("; a rule with a `name` writes it")

    @pytest.mark.parametrize(
        "rule",
        [
            constant(2, name="bert.bert.pooler"),
            constant(2, name="bert.bert.pooler", layer="Linear"),
            constant(2, name="**.pooler.dense", params=["weight", "bias"]),
            {"type": "Kaiming", "layer": "Conv2d", "override": constant(2, name="bert.bert.pooler")},
        ],
        ids=["name", "name-and-layer", "pattern-and-params", "override"],
    )
    @pytest.mark.filterwarnings("ignore:.*has no 'Conv2d':lightning_init.InitWarning")
    def test_a_rule_with_a_name_writes_them_and_the_report_says_so(self, bert: nn.Module, rule: Any) -> None:
        net = Holder(rule, bert=bert)
        before = encoder_of(net)
        report = init_weights(net)
        changed = {name for name, told in encoder_of(net).items() if told != before[name]}
        assert changed == {"bert.bert.pooler.dense.weight", "bert.bert.pooler.dense.bias"}
        row = report["bert.bert.pooler.dense.weight"]
        assert (row.initializer, row.kept_by) == ("Constant(val=2)", None)
        assert any(
            f"writes over what {LOADED} has filled: bert.bert.pooler.dense.weight, bert.bert.pooler.dense.bias" in note
            for note in report.notes
        )

    @pytest.mark.parametrize(
        "rule", [constant(2, layer="LayerNorm"), constant(2, params=["word_*", "gamma", "weight"])]
    )
    def test_a_rule_that_would_only_write_such_is_a_warning(self, folder: Path, rule: Any) -> None:
        bert = BertModel.from_pretrained(folder)
        net = Holder(rule, bert=bert)
        before = digests(net)
        with pytest.warns(
            InitWarning, match=r"Holder\.init_cfg: has no effect, since it leaves alone what transformers"
        ):
            init_weights(net)
        assert digests(net) == before
        with pytest.raises(InitConfigError, match="has no effect"):
            init_weights(Holder(rule, bert=bert), strict=True)

    def test_a_checkpoint_that_the_user_gives_is_loaded_over_them(self, bert: nn.Module, tmp_path: Path) -> None:
        given = torch.full((8, 8), 3.0)
        net = Holder(pretrained(tmp_path / "w.pth", {"bert.bert.pooler.dense.weight": given}), bert=bert)
        report = init_weights(net)
        assert value(net.get_parameter("bert.bert.pooler.dense.weight")) == 3
        assert report["bert.bert.pooler.dense.weight"].kept_by is None
        assert any(f"writes over what {LOADED} has filled" in note for note in report.notes)

    def test_one_that_is_made_from_its_config_is_written(self, bert: BertForSequenceClassification) -> None:
        net = Holder(constant(2), bert=BertModel(bert.config))
        report = init_weights(net)
        assert value(net.get_parameter("bert.pooler.dense.weight")) == 2
        assert not any(row.kept_by for row in report)

    def test_a_config_of_the_loaded_model_itself_needs_names_as_well(self, bert: nn.Module) -> None:
        bert.init_cfg = [constant(2), constant(3, name="bert.pooler")]  # type: ignore[assignment]
        before = digests(bert)
        init_weights(bert)
        changed = {name for name, told in digests(bert).items() if told != before[name]}
        assert changed == {*HEAD, "bert.pooler.dense.weight", "bert.pooler.dense.bias"}

    def test_so_does_one_that_is_given(self, bert: nn.Module) -> None:
        before = digests(bert)
        initialize(bert, constant(2))
        assert {name for name, told in digests(bert).items() if told != before[name]} == set(HEAD)

    @pytest.mark.parametrize("through", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])  # noqa: S301
    def test_a_copy_is_as_loaded_as_its_original(self, bert: nn.Module, through: Any) -> None:
        net = Holder(constant(2), bert=through(bert), head=linear())
        before = encoder_of(net)
        report = init_weights(net)
        assert encoder_of(net) == before
        assert report["bert.bert.pooler.dense.weight"].kept_by == LOADED

    def test_a_module_that_a_user_puts_in_is_not_loaded(self, bert: BertForSequenceClassification) -> None:
        bert.classifier = linear()
        init_weights(net := Holder(constant(2), bert=bert))
        assert value(net.get_parameter("bert.classifier.weight")) == 2

    def test_their_plan_says_who_keeps_them(self, bert: nn.Module) -> None:
        plan = build_plan(Holder(constant(2), bert=bert))
        entry = plan["bert.bert.pooler.dense.weight"]
        assert (entry.claims, entry.kept_by) == ((), LOADED)
        assert plan["bert.classifier.weight"].kept_by is None
        assert plan.untouched() == []
        assert f"kept by {LOADED}" in str(plan)

    def test_keep_is_told_before_them(self, bert: nn.Module) -> None:
        report = init_weights(Holder([{"type": "Keep", "name": "bert"}, constant(2)], bert=bert, head=linear()))
        assert report["bert.bert.pooler.dense.weight"].kept_by == "Holder.init_cfg[0]"
        assert report["bert.classifier.weight"].kept_by == "Holder.init_cfg[0]"
        assert not any("leaves alone" in note for note in report.notes)

    def test_code_may_write_them(self, bert: nn.Module) -> None:
        class Writes(Holder):
            def init_weights(self) -> None:
                nn.init.constant_(self.get_parameter("bert.bert.pooler.dense.bias"), 4)

        net = Writes(constant(2), bert=bert, head=linear())
        assert "then perhaps" in str(build_plan(net))
        report = init_weights(net)
        row = report["bert.bert.pooler.dense.bias"]
        assert (row.source, row.kept_by) == ("Writes.init_weights", None)

    def test_under_a_trainer(self, bert: nn.Module, tmp_path: Path) -> None:
        class Encoded(Net):
            def __init__(self) -> None:
                super().__init__(constant(0.5))
                self.bert = bert

        module, callback = Encoded(), InitWeightsCallback(log=(), require_all=True)
        before = encoder_of(module)
        trainer(tmp_path, callback).fit(module)
        assert encoder_of(module) == before
        assert value(module.get_parameter("bert.classifier.weight")) == 0.5
        assert value(module.head.weight) == 0.5
        assert callback.report is not None
        assert callback.report["bert.bert.pooler.dense.weight"].written_by == "kept"


class FromTimm(nn.Module):
    """A stand-in: what is looked at is where the class comes from and what ``create_model`` leaves."""

    __module__ = "timm.models.resnet"

    def __init__(self, *, built: bool) -> None:
        super().__init__()
        self.fc = linear()
        if built:
            self.pretrained_cfg = {"url": "", "num_classes": 1000}


class TestTimm:
    def test_what_create_model_built_is_written_by_name_only(self) -> None:
        net = Holder([constant(2), constant(3, name="head.fc")], net=FromTimm(built=True), head=FromTimm(built=True))
        with pytest.warns(InitWarning, match=r"init_cfg\[0\]: has no effect, since it leaves alone what timm"):
            report = init_weights(net)
        assert values(net) == {"net.fc.weight": 0, "net.fc.bias": 0, "head.fc.weight": 3, "head.fc.bias": 3}
        assert report["net.fc.weight"].kept_by == "timm (create_model)"

    def test_a_layer_of_theirs_in_a_model_of_the_user_is_not(self) -> None:
        init_weights(net := Holder(constant(2), net=FromTimm(built=False)))
        assert values(net) == {"net.fc.weight": 2, "net.fc.bias": 2}


class TestPeft:
    def adapted(self, **arguments: Any) -> nn.Module:
        class Base(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = nn.Linear(4, 4)
                self.head = nn.Linear(4, 2)

            def forward(self, batch: Tensor) -> Tensor:
                output: Tensor = self.head(self.fc(batch))
                return output

        return peft.get_peft_model(Base(), peft.LoraConfig(r=2, target_modules=["fc"], **arguments))

    def zero(self, net: nn.Module) -> Tensor:
        (found,) = (p for name, p in net.named_parameters() if name.endswith("lora_B.default.weight"))
        return found

    def test_the_zero_matrix_of_lora_stays_zero(self) -> None:
        net = Holder({"type": "Normal", "layer": "Linear", "std": 9, "bias": 1}, net=self.adapted(), head=linear())
        report = init_weights(net)
        assert value(self.zero(net)) == 0
        # The weight that it is added to is a layer as any other.
        assert value(net.get_parameter("net.base_model.model.fc.base_layer.bias")) == 1
        assert report["net.base_model.model.fc.lora_B.default.weight"].kept_by == "peft (an adapter)"
        assert report["net.base_model.model.fc.base_layer.weight"].initializer == "Normal(mean=0, std=9)"

    def test_unless_a_rule_names_it(self) -> None:
        net = Holder([constant(2), constant(3, name="**.lora_B")], net=self.adapted())
        report = init_weights(net)
        assert value(self.zero(net)) == 3
        assert report["net.base_model.model.fc.lora_B.default.weight"].kept_by is None

    def test_the_trained_copy_of_a_module_is_left_as_its_original_was(self) -> None:
        net = Holder(constant(2), net=self.adapted(modules_to_save=["head"]))
        original = net.get_parameter("net.base_model.model.head.modules_to_save.default.weight").detach().clone()
        init_weights(net)
        assert torch.equal(net.get_parameter("net.base_model.model.head.modules_to_save.default.weight"), original)
