#!/usr/bin/env bash
# Every method of experiments/cnn without a download: photographs and a network from pip packages, 5 epochs, three seeds.
# It should take under an hour on two idle CPU cores. Scripts of your own are methods, too. semantic_vp is left out: it
# compares names with a CLIP, which is a download; so are ares, which asks a second network, bar, whose measure is calls
# and not epochs, and c_avp, whose network has to be trained on the same classes. The settings are in common.sh.
: "${DATASETS:=pictures}" "${NETWORKS:=efficientnet_lite0}" "${EPOCH:=5}"
if [[ ! -v METHODS ]]; then
    for file in "$(dirname "${BASH_SOURCE[0]}")"/../cnn/*.py; do
        method=${file##*/} method=${method%.py}
        [[ $method == @(semantic_vp|ares|bar|c_avp) ]] || METHODS+="$method "
    done
fi
# shellcheck source=ilm_vp_cnn.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/ilm_vp_cnn.sh"
