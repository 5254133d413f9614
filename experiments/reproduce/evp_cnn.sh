#!/usr/bin/env bash
# EVP on non-CLIP models (Wu et al., TMLR 2024): EVP with its many-to-one label mapping. What can be set: common.sh.
# Which networks beside ResNet-50 and which data sets the paper's table has is not known for sure here: these are its
# main table's data sets, and README's table of networks has the others to choose from. The baselines come with
# METHODS="evp linear_probing full_finetune".
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${DATASETS:=$evp_datasets}"
: "${NETWORKS:=resnet50_v1 instagram}"
: "${METHODS:=evp}"
: "${SEEDS:=42}"

for dataset in $DATASETS; do
    for network in $NETWORKS; do
        methods cnn --network "$network" --dataset "$dataset"
    done
done
summary
