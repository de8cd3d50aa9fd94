//! Layers of real networks, as their INT8 models run them.

/// A few that stand for many: what is timed when no shape is given.
pub(super) const TYPICAL: &[&str] = &[
    "conv:224x224x3:64:7:2",
    "conv:56x56x64:64:3:1",
    "conv:14x14x256:256:3:1",
    "conv:14x14x1024:256:1:1",
    "conv:7x7x512:512:3:1",
    "conv:14x14x96:576:1:1",
    "dw:112x112x32:3:1",
    "dw:14x14x576:3:1",
    "128x768x768",
    "197x3072x768",
    "197x197x64",
    "1x1000x2048",
];

/// Every shape of the convolutions and products of each network, at 224×224 or the sequence that it says, batch 1. A
/// shape stands with the first network that has it.
pub(super) const NETWORKS: &[(&str, &[&str])] = &[
    (
        "ResNet-50",
        &[
            "conv:224x224x3:64:7:2",
            "conv:56x56x64:64:1:1",
            "conv:56x56x64:64:3:1",
            "conv:56x56x64:256:1:1",
            "conv:56x56x256:64:1:1",
            "conv:56x56x256:128:1:1",
            "conv:56x56x128:128:3:2",
            "conv:28x28x128:512:1:1",
            "conv:56x56x256:512:1:2",
            "conv:28x28x512:128:1:1",
            "conv:28x28x128:128:3:1",
            "conv:28x28x512:256:1:1",
            "conv:28x28x256:256:3:2",
            "conv:14x14x256:1024:1:1",
            "conv:28x28x512:1024:1:2",
            "conv:14x14x1024:256:1:1",
            "conv:14x14x256:256:3:1",
            "conv:14x14x1024:512:1:1",
            "conv:14x14x512:512:3:2",
            "conv:7x7x512:2048:1:1",
            "conv:14x14x1024:2048:1:2",
            "conv:7x7x2048:512:1:1",
            "conv:7x7x512:512:3:1",
            "1x1000x2048",
        ],
    ),
    (
        "ResNet-18",
        &[
            "conv:56x56x64:128:3:2",
            "conv:56x56x64:128:1:2",
            "conv:28x28x128:256:3:2",
            "conv:28x28x128:256:1:2",
            "conv:14x14x256:512:3:2",
            "conv:14x14x256:512:1:2",
            "1x1000x512",
        ],
    ),
    (
        "MobileNetV2",
        &[
            "conv:224x224x3:32:3:2",
            "dw:112x112x32:3:1",
            "conv:112x112x32:16:1:1",
            "conv:112x112x16:96:1:1",
            "dw:112x112x96:3:2",
            "conv:56x56x96:24:1:1",
            "conv:56x56x24:144:1:1",
            "dw:56x56x144:3:1",
            "conv:56x56x144:24:1:1",
            "dw:56x56x144:3:2",
            "conv:28x28x144:32:1:1",
            "conv:28x28x32:192:1:1",
            "dw:28x28x192:3:1",
            "conv:28x28x192:32:1:1",
            "dw:28x28x192:3:2",
            "conv:14x14x192:64:1:1",
            "conv:14x14x64:384:1:1",
            "dw:14x14x384:3:1",
            "conv:14x14x384:64:1:1",
            "conv:14x14x384:96:1:1",
            "conv:14x14x96:576:1:1",
            "dw:14x14x576:3:1",
            "conv:14x14x576:96:1:1",
            "dw:14x14x576:3:2",
            "conv:7x7x576:160:1:1",
            "conv:7x7x160:960:1:1",
            "dw:7x7x960:3:1",
            "conv:7x7x960:160:1:1",
            "conv:7x7x960:320:1:1",
            "conv:7x7x320:1280:1:1",
            "1x1000x1280",
        ],
    ),
    (
        "EfficientNet-B0",
        &[
            "1x8x32",
            "1x32x8",
            "1x4x96",
            "1x96x4",
            "1x6x144",
            "1x144x6",
            "dw:56x56x144:5:2",
            "conv:28x28x144:40:1:1",
            "conv:28x28x40:240:1:1",
            "dw:28x28x240:5:1",
            "1x10x240",
            "1x240x10",
            "conv:28x28x240:40:1:1",
            "dw:28x28x240:3:2",
            "conv:14x14x240:80:1:1",
            "conv:14x14x80:480:1:1",
            "dw:14x14x480:3:1",
            "1x20x480",
            "1x480x20",
            "conv:14x14x480:80:1:1",
            "dw:14x14x480:5:1",
            "conv:14x14x480:112:1:1",
            "conv:14x14x112:672:1:1",
            "dw:14x14x672:5:1",
            "1x28x672",
            "1x672x28",
            "conv:14x14x672:112:1:1",
            "dw:14x14x672:5:2",
            "conv:7x7x672:192:1:1",
            "conv:7x7x192:1152:1:1",
            "dw:7x7x1152:5:1",
            "1x48x1152",
            "1x1152x48",
            "conv:7x7x1152:192:1:1",
            "dw:7x7x1152:3:1",
            "conv:7x7x1152:320:1:1",
        ],
    ),
    ("BERT-base, 128 tokens", &["128x768x768", "128x128x64", "128x64x128", "128x3072x768", "128x768x3072"]),
    ("ViT-B/16", &["196x768x768", "197x768x768", "197x197x64", "197x64x197", "197x3072x768", "197x768x3072"]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Problem;
    use std::collections::BTreeSet;

    #[test]
    fn every_layer_is_a_problem_and_stands_once() {
        let layers: Vec<&str> = NETWORKS.iter().flat_map(|(_, layers)| layers.iter().copied()).collect();
        assert_eq!(layers.iter().collect::<BTreeSet<_>>().len(), layers.len());
        for text in layers.into_iter().chain(TYPICAL.iter().copied()) {
            let problem = Problem::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(problem.to_string(), text);
        }
    }
}
