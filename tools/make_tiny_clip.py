"""Makes a very small CLIP, which a CPU trains in a minute, to try the CLIP scripts without a download.

    python tools/make_tiny_clip.py tiny_clip --dataset digits

Writes tiny_clip/tiny-clip.json (its architecture) and tiny_clip/tiny-clip.pt (its weights), for --clip-config and
--pretrained. It learns from the training split only, with the image half of CLIP's contrastive loss: each image is
compared with the text prompts of all classes. Each batch draws a new template. The CLIP knows only the words of these
templates and class names.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import open_clip
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

import cfg
from algorithms.training import cosine_schedule, fit
from data.catalog import find_dataset
from data.loaders import build_data
from errors import UserError
from models.clip import TEMPLATES, text_prompts, tokens_of
from tools.common.args import Parser
from tools.common.command import run_command
from tools.common.files import write_json, write_whole
from tools.common.flag_types import dataset_name, positive_int, seed_number
from tools.common.log import Log
from tools.common.machine import prepare_device

ARCHITECTURE = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 96, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


class TextClassifier(nn.Module):
    """A CLIP that learns: images (B,3,H,W) in [0,1] -> logits (B,T) over one template's text prompts."""

    def __init__(self, clip: nn.Module, tokens: Tensor):
        super().__init__()
        self.clip = clip
        self.register_buffer("tokens", tokens)  # (templates, T, context)
        for name, values in (("mean", open_clip.OPENAI_DATASET_MEAN), ("std", open_clip.OPENAI_DATASET_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        template = int(torch.randint(len(self.tokens), ())) if self.training else 0
        texts = self.clip.encode_text(self.tokens[template], normalize=True)
        images = self.clip.encode_image((x - self.mean) / self.std, normalize=True)
        return self.clip.logit_scale.exp().clamp(max=100) * images @ texts.T


def main(argv: list[str] | None = None) -> dict:
    parser = Parser(__file__, __doc__)
    parser.add_argument("folder", type=Path, help="where the two files go")
    parser.add_argument(
        "--dataset", type=dataset_name, default="digits", help="what it learns from; default %(default)s"
    )
    parser.add_argument("--epoch", type=positive_int, default=20, help="epochs to train; default %(default)s")
    parser.add_argument("--seed", type=seed_number, default=0, help="default %(default)s")
    args = parser.parse_args(argv)
    splits = find_dataset(args.dataset).read()
    try:
        args.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = f"It cannot be made: {error}"
        raise UserError(f"{args.folder}: the folder for the two files.", found, "Give another folder.") from None
    side, device = ARCHITECTURE["vision_cfg"]["image_size"], torch.device("cpu")
    transforms = [v2.Resize(side, v2.InterpolationMode.BICUBIC), v2.CenterCrop(side)]
    how = {"batch_size": 32, "device": device, "workers": 0, "cache_folder": cfg.data_path / ".cache"}
    data = build_data(splits, train=transforms, eval=transforms, **how)

    torch.manual_seed(args.seed)
    prepare_device(device)
    clip = open_clip.CLIP(**ARCHITECTURE)
    tokenize = open_clip.SimpleTokenizer(context_length=clip.context_length)
    tokens = tokens_of(text_prompts(TEMPLATES, splits.class_names), tokenize)
    model = TextClassifier(clip, tokens.view(len(TEMPLATES), len(splits.class_names), -1))

    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.1)
    scheduler = cosine_schedule(optimizer, args.epoch * len(data.train), warmup=len(data.train))
    scaler, record = torch.amp.GradScaler("cpu", enabled=False), {}

    def tell(epoch: int, numbers: dict) -> None:
        record.update(numbers, epoch=epoch + 1)
        print(Log.line(record, args.epoch), flush=True)

    fitting = {"epochs": args.epoch, "seed": args.seed, "scaler": scaler, "schedule_steps": True, "on_epoch_end": tell}
    fit(model, data, optimizer, scheduler, **fitting)
    config, weights = args.folder / "tiny-clip.json", args.folder / "tiny-clip.pt"
    write_json(config, ARCHITECTURE)
    write_whole(weights, lambda file: torch.save(clip.state_dict(), file))
    print(f"Use it with: --pretrained {weights} --clip-config {config}")
    return record


if __name__ == "__main__":
    run_command(main)
