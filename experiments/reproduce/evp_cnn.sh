#!/usr/bin/env bash
# EVP on non-CLIP models (Wu et al., TMLR 2024): EVP with its many-to-one label mapping. The settings are in common.sh.
# It is not known for sure here which data sets, and which networks besides ResNet-50, the paper's table has. These are
# the data sets of its main table. README's table lists more networks. METHODS="evp linear_probing full_finetune" adds
# the baselines.
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${DATASETS:=$evp_datasets}"
: "${NETWORKS:=resnet50_v1 instagram}"
: "${METHODS:=evp}"
: "${SEEDS:=42 43 44}"

for dataset in $DATASETS; do
    for network in $NETWORKS; do
        methods cnn --network "$network" --dataset "$dataset"
    done
done
summary
