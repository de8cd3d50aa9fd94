//! The functions of real numbers that element-wise operators are made of, in f32 and f64. They come from `libm`, not
//! from the platform, so that every machine gives the same bits.

use quantal_tensor::Element;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// A float type with its functions.
pub(super) trait Real:
    Element + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self> + Neg<Output = Self>
{
    fn of(v: f64) -> Self;
    fn exp(self) -> Self;
    fn exp_m1(self) -> Self;
    fn ln(self) -> Self;
    fn ln_1p(self) -> Self;
    fn tanh(self) -> Self;
    fn erf(self) -> Self;
    fn sin(self) -> Self;
    fn cos(self) -> Self;
    fn pow(self, e: Self) -> Self;
    fn sqrt(self) -> Self;
    fn floor(self) -> Self;
    fn ceil(self) -> Self;
    fn round_even(self) -> Self;
    fn absolute(self) -> Self;

    /// The nearer end for what lies outside; NaN stays.
    fn between(self, low: Self, high: Self) -> Self {
        if self < low {
            low
        } else if self > high {
            high
        } else {
            self
        }
    }

    fn sigmoid(self) -> Self {
        Self::of(1.0) / (Self::of(1.0) + (-self).exp())
    }

    /// `ln(1 + exp(x))`, written so that nothing overflows.
    fn softplus(self) -> Self {
        let positive = if self > Self::of(0.0) { self } else { Self::of(0.0) };
        positive + (-self.absolute()).exp().ln_1p()
    }
}

macro_rules! real {
    ($t:ident: $exp:ident $expm1:ident $log:ident $log1p:ident $tanh:ident $erf:ident $sin:ident $cos:ident $pow:ident) => {
        impl Real for $t {
            #[inline]
            fn of(v: f64) -> Self {
                v as $t
            }
            fn exp(self) -> Self {
                libm::$exp(self)
            }
            fn exp_m1(self) -> Self {
                libm::$expm1(self)
            }
            fn ln(self) -> Self {
                libm::$log(self)
            }
            fn ln_1p(self) -> Self {
                libm::$log1p(self)
            }
            fn tanh(self) -> Self {
                libm::$tanh(self)
            }
            fn erf(self) -> Self {
                libm::$erf(self)
            }
            fn sin(self) -> Self {
                libm::$sin(self)
            }
            fn cos(self) -> Self {
                libm::$cos(self)
            }
            fn pow(self, e: Self) -> Self {
                libm::$pow(self, e)
            }
            #[inline]
            fn sqrt(self) -> Self {
                <$t>::sqrt(self)
            }
            #[inline]
            fn floor(self) -> Self {
                <$t>::floor(self)
            }
            #[inline]
            fn ceil(self) -> Self {
                <$t>::ceil(self)
            }
            #[inline]
            fn round_even(self) -> Self {
                self.round_ties_even()
            }
            #[inline]
            fn absolute(self) -> Self {
                self.abs()
            }
        }
    };
}

real!(f32: expf expm1f logf log1pf tanhf erff sinf cosf powf);
real!(f64: exp expm1 log log1p tanh erf sin cos pow);
