#!/usr/bin/env bash
# ILM-VP's table without a download: photographs and a network from pip packages, 5 epochs, three seeds
# (15 minutes on two idle CPU cores). The settings are in common.sh.
: "${DATASETS:=pictures}" "${NETWORKS:=efficientnet_lite0}" "${EPOCH:=5}"
# shellcheck source=ilm_vp_cnn.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/ilm_vp_cnn.sh"
