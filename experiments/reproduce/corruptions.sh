#!/usr/bin/env bash
# Accuracy under corruption (EVP: Wu et al., TMLR 2024): trains on CIFAR-10 with CLIP, then evaluates on CIFAR-10-C. The
# line of an evaluation has the clean accuracy and the means by severity. corruptions.json in the run's folder has all
# accuracies, for results_table.py --metric corruptions. The settings are in common.sh.
# Download these files first, and unpack them in data_path: CIFAR-10-C.tar, https://zenodo.org/records/2535967, and for
# DATASETS="cifar10 cifar100" also CIFAR-100-C.tar, https://zenodo.org/records/3555552.
# It is not known for sure here which methods the paper compares. If FLAGS change the names of the runs' folders, this
# script does not find the checkpoints. To use another CLIP, set its FLAGS, and CLIP to its name in those folders.
# shellcheck source=common.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

: "${DATASETS:=cifar10}" "${METHODS:=zero_shot ilm_tp_vp vp evp}" "${SEEDS:=42 43 44}" "${CLIP:=ViT-B-32-quickgelu-openai}"
declare -A epochs=([zero_shot]=0 [vp]=${EPOCH:-1000} [evp]=${EPOCH:-1000})

for step in train evaluate; do
    for dataset in $DATASETS; do for method in $METHODS; do for seed in $SEEDS; do
        trained=$VP_RESULTS_PATH/clip/$method/${CLIP}_${dataset}_seed${seed}_epoch${epochs[$method]:-${EPOCH:-200}}
        if [[ $step == train ]]; then
            run "experiments/clip/$method.py" --dataset "$dataset" --seed "$seed"
        elif [[ $DRY_RUN ]] || grep -qs '"status": "finished"' "$trained/result.json"; then  # else its line says why not
            corrupted=$VP_DATA_PATH/CIFAR-${dataset#cifar}-C
            kept=$trained/corruptions.json
            run tools/evaluate.py --corruptions "$corrupted" --checkpoint "$trained/best.pth" --output "$kept"
        fi
    done; done; done
    settle
done
summary
