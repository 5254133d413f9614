"""C-AVP: a visual prompt for each class, which makes a network robust against attacks.

Chen et al., "Visual Prompting for Adversarial Robustness", ICASSP 2023. An image is predicted under all prompts; class
c's probability is that of the image under prompt c. So a test image costs as many passes as there are classes. In
training the prompted images are attacked, and three margins keep the prompts apart. The paper's network was trained on
the same classes. The map of labels is made once, from the predictions without a prompt: for such a network each class
keeps its own label.

    python experiments/cnn/c_avp.py --network timm:resnet18=my_cifar10.pth --dataset cifar10
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torchvision.transforms import v2

from algorithms.class_wise_loss import ClassWiseLoss
from algorithms.label_mapping import frequency_label_mapping
from algorithms.training import cosine_schedule
from data.loaders import load_data, read_dataset
from models.networks import load_network
from models.output_mapping import SelectLabels
from models.prompted import Prompted
from models.several_prompts import PromptsOfClasses
from models.visual_prompt import AdditiveVisualPrompt, NoVisualPrompt, frame, scaled
from tools.common.args import experiment_parser
from tools.common.prompt_flags import add_margin_flags
from tools.common.run import run_experiment

parser = experiment_parser(__file__, __doc__, lr=0.1, epoch=50, batch_size=256)
add_margin_flags(parser)


def train(args, run):
    dataset = read_dataset(args.dataset, run)
    network = load_network(args.network, run)
    size = network.input_size
    one = AdditiveVisualPrompt(frame(size, scaled(args.prompt_size, size)), torch.ones(3))
    prompt = PromptsOfClasses(one, dataset.num_classes, len(network.class_names))
    mapping = SelectLabels(dataset.num_classes)
    model, bare = Prompted(prompt, network, mapping), Prompted(NoVisualPrompt(), network, mapping)

    resize = [v2.Resize((size, size))]
    data = load_data(dataset, run, train=resize, eval=resize)

    optimizer = torch.optim.SGD(prompt.parameters(), lr=args.lr, momentum=0.9, fused=True)
    scheduler = cosine_schedule(optimizer, args.epoch * len(data.train))
    weights = {"weight": args.margin_weight, "margins": args.margins}
    loss = ClassWiseLoss(eps=args.eps, steps=args.attack_steps, **weights)

    def remap(epoch):
        if epoch == 0:
            mapping.set(frequency_label_mapping(run.count_predictions(bare, data.train)))
            prompt.labels.copy_(mapping.index)

    return run.fit(model, data, optimizer, scheduler, on_epoch_start=remap, schedule_steps=True, loss=loss)


if __name__ == "__main__":
    run_experiment(train, parser)
