#!/usr/bin/env bash
# EVP on non-CLIP models (Wu et al., TMLR 2024): EVP with its many-to-one label mapping. What can be set: common.sh.
# Which networks beside ResNet-50 and which data sets the paper's table has is not known for sure here: these are its
# main table's data sets, and README's table of networks has the others to choose from. The baselines come with
# METHODS="evp linear_probing full_finetune".
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${DATASETS:=cifar100 cifar10 flowers102 food101 eurosat sun397 ucf101 svhn oxfordpets dtd resisc45 clevr}"
: "${NETWORKS:=resnet50_v1 instagram}"
: "${METHODS:=evp}"
: "${SEEDS:=42}"

for dataset in $DATASETS; do
    for network in $NETWORKS; do
        for method in $METHODS; do
            for seed in $SEEDS; do
                run "experiments/cnn/$method.py" --network "$network" --dataset "$dataset" --seed "$seed"
            done
        done
    done
done
summary
