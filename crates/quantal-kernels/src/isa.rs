//! Which instruction set to use: detected, and capped by `QUANTAL_ISA`.

#[cfg(target_arch = "x86_64")]
mod amx;

use std::fmt;

/// Classes of instruction sets that have kernels of their own, each holding all that those before it on the same
/// architecture can do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Level {
    /// Plain Rust: the reference, and the fallback on any CPU.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-VNNI: `vpdpbusd` on 256-bit registers.
    AvxVnni,
    /// AVX-512 F, BW, VL and VNNI: `vpdpbusd` on 512-bit registers.
    Avx512Vnni,
    /// AVX-512 VNNI and VBMI, and the tiles of AMX-INT8 for matrix products.
    Amx,
    /// NEON, which every aarch64 CPU has.
    Neon,
    /// NEON with `sdot`.
    NeonDot,
}

impl Level {
    const ALL: [Self; 7] =
        [Self::Portable, Self::Avx2, Self::AvxVnni, Self::Avx512Vnni, Self::Amx, Self::Neon, Self::NeonDot];

    /// The level whose vectors do all that is no matrix product: it is this one, but for AMX.
    #[must_use]
    pub fn of_vectors(self) -> Self {
        if self == Self::Amx { Self::Avx512Vnni } else { self }
    }

    /// The name that `QUANTAL_ISA` takes and reports print.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512Vnni => "avx512vnni",
            Self::Amx => "amx",
            Self::Neon => "neon",
            Self::NeonDot => "neondot",
        }
    }

    fn supported(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => Self::Avx2.supported() && std::is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => {
                Self::Avx2.supported()
                    && std::is_x86_feature_detected!("avx512f")
                    && std::is_x86_feature_detected!("avx512bw")
                    && std::is_x86_feature_detected!("avx512vl")
                    && std::is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Amx => {
                Self::Avx512Vnni.supported() && std::is_x86_feature_detected!("avx512vbmi") && amx::available()
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::AvxVnni | Self::Avx512Vnni | Self::Amx => false,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => true,
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(not(target_arch = "aarch64"))]
            Self::Neon | Self::NeonDot => false,
        }
    }
}

/// A level that this CPU has: proof that its kernels may run. Made by detection alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Isa(Level);

/// `QUANTAL_ISA` holds a name that no level has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("QUANTAL_ISA is `{0}`; it can be one of portable, avx2, avxvnni, avx512vnni, amx, neon, neondot")]
pub struct UnknownIsa(String);

impl Isa {
    /// The portable level, which every CPU has.
    pub const PORTABLE: Self = Self(Level::Portable);

    /// The best level of this CPU that is not above the cap in the environment variable `QUANTAL_ISA`; an empty one is
    /// none.
    pub fn detect() -> Result<Self, UnknownIsa> {
        let cap = match std::env::var_os("QUANTAL_ISA").filter(|name| !name.is_empty()) {
            None => Level::NeonDot,
            Some(name) => {
                let name = name.to_string_lossy();
                let known = Level::ALL.into_iter().find(|l| l.name() == name);
                known.ok_or_else(|| UnknownIsa(name.escape_debug().to_string()))?
            }
        };
        Ok(Self::available().into_iter().rfind(|isa| isa.0 <= cap).unwrap_or(Self::PORTABLE))
    }

    /// Every level that this CPU has, lowest first: what tests walk.
    pub fn available() -> Vec<Self> {
        Level::ALL.into_iter().filter(|l| l.supported()).map(Self).collect()
    }

    /// Whether kernels of `level` may run: it is not above this one, and the CPU has it. (A CPU with AVX-512 VNNI may lack
    /// AVX-VNNI.)
    pub fn can_run(self, level: Level) -> bool {
        level <= self.0 && level.supported()
    }

    /// The level.
    pub fn level(self) -> Level {
        self.0
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portable_is_always_there_and_levels_rise() {
        let all = Isa::available();
        assert_eq!(all[0], Isa::PORTABLE);
        assert!(all.is_sorted());
    }
}
