"""The papers' tables of test accuracies in percent, as they are printed there.

A cell is a mean, or a mean and a standard deviation over seeds. Networks that cannot be had here are left out: the
ViT-B/32 of SMM's paper has other weights than timm's.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """A paper's table, and how its numbers came about: epochs, seeds, and on which images the epoch was chosen."""

    name: str
    how: str


_ILM = Source("Chen et al., CVPR 2023, main table", "200 epochs, 3 seeds, best test epoch")
_SMM = Source("Cai et al., ICML 2024", "200 epochs, 3 seeds, best test epoch")
_DVP = Source("table of the RVP preprint, arXiv 2609.36680", "16 shots; AttrVR and DVP at their best test epoch")
_DGA = Source("DGA, CVPR 2026", "16 shots, 200 epochs; which epoch is not known here")
_ZS = Source("table of SharpZO, 2025; SVHN and GTSRB: AReS, CVPR 2026", "no training")
_ACAVP = Source("ACAVP, NeurIPS 2025", "all training images; which epoch is not known here")

# network, source, flags that all have in common, table
TABLES = (
    (
        "resnet18",
        _ILM,
        (),
        """
                   RLM-VP FLM-VP ILM-VP LP   FF
        flowers102   11.0   20.0   27.9 88.0 97.1
        dtd          16.3   32.4   35.3 60.0 65.5
        ucf101        6.6   18.9   23.9 63.2 73.0
        food101       3.8   12.8   14.8 50.6 75.4
        gtsrb        46.1   45.5   52.0 77.4 98.0
        eurosat      82.4   83.8   85.2 93.8 98.8
        oxfordpets    9.3   62.9   65.4 87.2 87.8
        stanfordcars   .9    2.7    4.5 33.8 81.0
        sun397        1.0   10.4   13.0 46.1 53.2
        cifar10      63.0   65.7   65.5 85.9 96.5
        cifar100     12.9   18.1   24.8 63.3 82.5
        svhn         73.5   73.1   75.2 65.0 96.5
        abide        74.0   73.1   76.9 65.4 60.6
        """,
    ),
    (
        "resnet50",
        _ILM,
        (),
        """
                   FLM-VP ILM-VP LP   FF
        flowers102   20.3   24.6 90.9 97.9
        dtd          36.9   40.5 67.6 69.7
        ucf101       33.9   34.6 70.8 78.0
        food101      15.3   17.0 57.6 80.3
        gtsrb        47.6   52.5 77.8 97.6
        eurosat      84.8   83.6 95.7 98.9
        oxfordpets   76.4   76.2 90.4 91.9
        stanfordcars  4.2    4.7 40.6 86.4
        sun397       19.8   20.3 53.5 59.0
        cifar10      74.8   76.6 90.1 96.6
        cifar100     32.0   38.9 70.7 83.4
        svhn         75.6   75.8 63.5 96.9
        abide        64.4   63.5 55.8 70.2
        """,
    ),
    (
        "instagram",
        _ILM,
        (),
        """
                   FLM-VP ILM-VP LP   FF
        flowers102   22.5   27.9 89.1 99.2
        dtd          40.3   41.4 69.7 69.1
        ucf101       41.9   43.1 76.9 79.1
        food101      20.5   23.0 76.0 82.5
        gtsrb        56.2   59.9 73.5 97.6
        eurosat      87.8   86.2 93.4 98.9
        oxfordpets   76.8   78.9 93.6 90.1
        stanfordcars  4.6    7.0 64.7 92.5
        sun397       21.6   23.7 62.3 61.0
        cifar10      80.3   81.7 94.1 97.1
        cifar100     39.7   45.9 76.2 84.6
        svhn         79.0   81.4 51.0 97.1
        abide        65.7   67.3 54.8 73.1
        """,
    ),
    (
        "resnet18",
        _SMM,
        (),
        """
                   Narrow   Medium   Full     SMM
        cifar10    68.6±2.8 68.8±1.1 68.9±0.4 72.8±0.7
        cifar100   36.9±0.6 34.9±0.2 33.8±0.2 39.4±0.6
        svhn       58.5±1.1 71.1±1.0 78.3±0.3 84.4±2.0
        gtsrb      46.1±1.5 56.4±1.0 76.8±0.9 80.4±1.2
        flowers102 22.1±0.1 22.6±0.5 23.2±0.5 38.7±0.7
        dtd        33.1±1.3 31.7±0.5 29.0±0.7 33.6±0.4
        ucf101     27.2±0.9 26.1±0.3 24.4±0.9 28.7±0.8
        food101    14.0±0.1 14.4±0.3 13.2±0.1 17.5±0.1
        sun397     15.3±0.1 14.2±0.1 13.4±0.2 16.0±0.3
        eurosat    82.8±0.4 83.8±0.5 84.3±0.5 92.2±0.2
        oxfordpets 73.7±0.2 71.4±0.2 70.0±0.6 74.1±0.4
        stanfordcars 3.6    3.6      3.4      2.9
        """,
    ),
    (
        "resnet18",
        _SMM,
        (),
        """
                cifar10 cifar100 svhn  gtsrb flowers102 dtd   ucf101 food101 sun397 eurosat oxfordpets
        SMM+FLM  72.75  32.35   83.73  80.90   32.16   34.28  25.72   15.21  15.45  92.67   72.83
        SMM+RLM  69.71  23.47   85.37  82.38   37.68   19.74  16.71   15.86   3.35  94.47   16.84
        Full+FLM 71.79  29.79   78.78  74.76   17.78   30.14  22.71   11.58  13.45  86.00   69.66
        Full+RLM 65.68  16.99   77.44  69.60   12.34   14.00   9.04    7.15   1.05  84.49    8.89
        """,
    ),
    (
        "resnet50",
        _SMM,
        (),
        """
                   Narrow Medium Full SMM
        cifar10      77.4   77.8 79.3 81.4
        cifar100     42.5   43.8 47.2 49.0
        svhn         59.1   71.5 79.5 82.6
        gtsrb        38.9   52.6 76.5 78.2
        flowers102   19.9   20.9 22.6 35.9
        dtd          37.8   38.4 34.7 41.1
        ucf101       38.4   37.2 35.2 38.9
        food101      18.3   18.3 16.7 19.8
        sun397       22.0   21.5 21.1 22.9
        eurosat      83.7   85.8 86.9 92.0
        oxfordpets   76.4   75.6 73.4 78.1
        stanfordcars  4.7    4.7  4.6  3.0
        """,
    ),
    (
        "ViT-B-16-openai",
        _ZS,
        (),
        """
           fgvc_aircraft caltech101 stanfordcars dtd  eurosat flowers102 food101 oxfordpets sun397 ucf101 svhn gtsrb
        ZS          24.7       92.9         65.3 44.4    47.6       71.3    86.1       89.2   62.5   66.8 17.9  21.0
        """,
    ),
    (
        "ViT-B-16-openai",
        _DGA,
        ("shots 16",),
        """
            fgvc_aircraft stanfordcars dtd  flowers102 sun397
        DGA          51.8         84.4 73.9       97.6   76.9
        DVP-cse      40.3         72.5 66.7       95.4   71.1
        """,
    ),
    (
        "ViT-B-16-openai",
        _DVP,
        ("shots 16",),
        """
                fgvc_aircraft caltech101 stanfordcars dtd  eurosat flowers102 food101 oxfordpets sun397 ucf101 resisc45
        VP               32.1       93.5         65.5 61.4    91.2       82.5    82.3       91.0   65.8   73.8     79.1
        AR               31.7       95.5         68.0 62.0    93.4       85.9    85.2       92.7   67.9   78.1     81.6
        AttrVR           36.6       95.7         68.3 65.6    93.8       92.9    85.9       93.3   69.6   79.0     82.6
        DVP              38.7       96.0         70.8 65.5    94.1       95.0    85.7       93.3   71.1   82.0     84.4
        DVPlite          39.3       95.9         71.4 66.5    93.8       95.2    85.8       93.4   71.6   81.0     83.6
        RVP              46.1       96.5         84.8 68.7    92.7       96.7    85.5       94.0   73.8   85.1     85.9
        """,
    ),
    (
        "ViT-B-32-openai",
        _DVP,
        ("shots 16",),
        """
               fgvc_aircraft caltech101 stanfordcars dtd  eurosat flowers102 food101 oxfordpets sun397 ucf101 resisc45
        VP              24.3       92.3         58.6 54.9    85.9       71.2    75.0       86.8   61.0   67.3     73.9
        AR              21.8       92.7         56.9 49.9    85.6       66.7    75.7       84.7   59.9   63.5     71.6
        AttrVR          24.5       92.0         56.6 56.8    88.6       77.8    77.2       89.8   62.8   67.9     73.9
        DVP             26.1       92.9         56.5 57.2    88.5       82.5    77.0       89.2   64.2   70.5     76.0
        RVP             32.8       94.1         74.1 63.4    86.4       93.3    74.8       90.3   68.0   77.8     79.1
        """,
    ),
    (
        "RN50-openai",
        _DVP,
        ("shots 16",),
        """
               fgvc_aircraft caltech101 stanfordcars dtd  eurosat flowers102 food101 oxfordpets sun397 ucf101 resisc45
        VP              16.2       80.1         44.0 43.4    59.7       53.6    65.3       77.2   48.8   52.0     47.7
        AR              18.6       86.5         53.9 46.4    66.6       60.9    74.2       82.5   56.8   59.7     58.4
        AttrVR          20.7       89.1         53.9 54.4    72.0       74.8    75.3       88.9   59.9   63.6     58.2
        DVP             22.1       89.8         54.5 55.9    72.2       80.0    75.0       88.9   61.1   65.9     60.8
        RVP             29.1       92.0         71.0 62.0    72.9       91.6    73.7       89.7   66.2   74.3     72.9
        """,
    ),
    (
        "RN101-openai",
        _DVP,
        ("shots 16",),
        """
               fgvc_aircraft caltech101 stanfordcars dtd  eurosat flowers102 food101 oxfordpets sun397 ucf101 resisc45
        VP              19.3       83.0         53.7 43.4    62.8       57.2    71.2       80.2   53.5   54.2     54.0
        AR              19.5       89.7         62.0 46.3    70.4       60.4    78.0       84.4   58.4   60.6     60.2
        AttrVR          23.3       92.0         62.2 55.6    70.3       76.2    79.5       89.3   62.1   64.5     64.5
        DVP             23.8       92.7         62.5 58.0    70.7       80.6    79.1       89.5   63.7   68.1     68.4
        RVP             30.4       93.9         76.0 60.1    67.6       90.5    76.8       91.1   67.5   75.8     73.4
        """,
    ),
    (
        "ViT-B-32-openai",
        _ACAVP,
        (),
        """
              cifar10 flowers102
        ACAVP   96.27      89.36
        """,
    ),
)
