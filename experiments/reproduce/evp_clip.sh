#!/usr/bin/env bash
# EVP's main table (Wu et al., TMLR 2024): CLIP on 12 data sets, zero-shot, VP, EVP, linear probing, full fine-tuning.
# The settings are in common.sh. All methods have EVP's own seed, 42, and two more. The paper does not give the settings
# of linear probing and full fine-tuning. resisc45 has to be downloaded by hand (python tools/prepare_data.py resisc45 says how).
# VP warms up for 1000 steps. A small EPOCH needs a shorter warm-up, as VP then says: METHODS=vp EPOCH=10 FLAGS="--warmup 16".
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${DATASETS:=$evp_datasets}"
: "${METHODS:=zero_shot vp evp linear_probing full_finetune}"
: "${SEEDS:=42 43 44}"

for dataset in $DATASETS; do
    methods clip --dataset "$dataset"
done
summary
