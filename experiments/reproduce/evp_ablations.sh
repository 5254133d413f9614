#!/usr/bin/env bash
# EVP's ablations (Wu et al., TMLR 2024) on CLIP: EVP itself, then one part changed at a time. The settings are in
# common.sh, and ABLATIONS="--no-diversity,--prompt-size 20" (flags of experiments/clip/evp.py, separated by commas).
# Three things are not known for sure here: the data sets of the paper's ablations, their sizes, and their learning rate
# for gradient norms other than L2. This script takes cifar100, sizes around EVP's 30 and 164, and EVP's 70 for all.
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${DATASETS:=cifar100}"
: "${SEEDS:=42 43 44}"
parts=",--placement add,--no-diversity,--gradient-norm none,--gradient-norm l1,--gradient-norm linf"
sizes="--prompt-size 10,--prompt-size 20,--prompt-size 40,--prompt-size 50,--image-size 144,--image-size 184"
IFS=, read -ra ablations <<<"${ABLATIONS-$parts,$sizes}"

for dataset in $DATASETS; do
    for ablation in "${ablations[@]}"; do
        read -ra words <<<"$ablation"
        for seed in $SEEDS; do
            run experiments/clip/evp.py --dataset "$dataset" --seed "$seed" "${words[@]}"
        done
    done
done
summary
