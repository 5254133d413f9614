#!/usr/bin/env bash
# ILM-VP on ImageNet networks (Chen et al., CVPR 2023): random, frequency and iterative label mapping, and the baselines
# linear probing and full fine-tuning; mean and standard deviation over three seeds. The settings are in common.sh.
# Make abide by hand first (python tools/prepare_data.py abide says how).
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${DATASETS:=flowers102 dtd ucf101 food101 gtsrb eurosat oxfordpets stanfordcars sun397 svhn cifar10 cifar100 abide}"
: "${NETWORKS:=resnet18 resnet50 instagram}"
: "${METHODS:=rlm_vp flm_vp ilm_vp linear_probing full_finetune}"
: "${SEEDS:=7 8 9}"

for dataset in $DATASETS; do
    for network in $NETWORKS; do
        methods cnn --network "$network" --dataset "$dataset"
    done
done
summary
