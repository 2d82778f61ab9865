"""The Trainer of Hugging Face: dropout, accumulated gradients, clipping, a schedule, bfloat16, checkpointing.

    pip install 'memograd[examples]'
    python examples/huggingface_trainer.py            # with and without memograd, side by side
    python examples/huggingface_trainer.py --plain    # PyTorch alone

One line makes the difference: ``model = mg.wrap(model)``.
"""

import argparse
import tempfile
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

import memograd as mg

STEPS, ACCUMULATED, BATCH = 100, 2, 4


class Pairs(Dataset):
    """Sequences in which every second number repeats the one before it."""

    def __init__(self, samples: int) -> None:
        self.tokens = torch.randint(50, (samples, 12), generator=torch.Generator().manual_seed(1))
        self.tokens[:, 1::2] = self.tokens[:, ::2]

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, at: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[at], "labels": self.tokens[at]}


class Losses(TrainerCallback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.seen.append(float(logs["loss"]))


def network() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def train(wrapped: bool, steps: int = STEPS, **options: Any) -> list[float]:
    """The loss of every step, as the Trainer logs it, and that of the evaluation behind them."""
    model = network()
    if wrapped:
        model = mg.wrap(model)
    losses = Losses()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=ACCUMULATED,
            max_grad_norm=1.0,
            learning_rate=1e-3,
            lr_scheduler_type="cosine",
            warmup_steps=10,
            bf16=True,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            **options,
        )
        pairs = Pairs(steps * ACCUMULATED * BATCH)
        trainer = Trainer(model, arguments, train_dataset=pairs, eval_dataset=Pairs(20), callbacks=[losses])
        trainer.train()
        trainer.save_model(folder)  # as if it were not wrapped
        GPT2LMHeadModel.from_pretrained(folder)
        return [*losses.seen, trainer.evaluate()["eval_loss"]]


def main() -> None:
    options = argparse.ArgumentParser(description="The losses of a loop, with mg.wrap and without.")
    options.add_argument("--plain", action="store_true", help="without mg.wrap alone")
    options.add_argument("--steps", type=int, default=STEPS)
    given = options.parse_args()
    runs = [train(wrapped, given.steps) for wrapped in ((False,) if given.plain else (False, True))]
    for k, losses in enumerate(zip(*runs, strict=True), 1):
        if k % 10 == 0:
            print(f"step {k:4d}  " + "  ".join(f"{loss:.6f}" for loss in losses))


if __name__ == "__main__":
    main()
