//! Element types: names, sizes, and their numbers in the ONNX format.

use std::fmt;

macro_rules! dtypes {
    ($($name:ident = $code:literal, $text:literal, $size:literal;)*) => {
        /// The element type of a tensor, as ONNX counts them.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[allow(missing_docs)]
        pub enum DType { $($name),* }

        impl DType {
            /// The value of `TensorProto.DataType`, or `None` for a number that ONNX has not assigned.
            pub fn from_onnx(code: i32) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
            /// The number of this type in `TensorProto.DataType`.
            pub fn to_onnx(self) -> i32 {
                match self { $(Self::$name => $code),* }
            }
            /// The name that messages and reports use: `float32`, `uint8` …
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
            /// Bytes of one element in memory. Sub-byte types are held one value a byte; 0 means "not held" (strings).
            pub fn size(self) -> usize {
                match self { $(Self::$name => $size),* }
            }
        }
    };
}

dtypes! {
    F32 = 1, "float32", 4;
    U8 = 2, "uint8", 1;
    I8 = 3, "int8", 1;
    U16 = 4, "uint16", 2;
    I16 = 5, "int16", 2;
    I32 = 6, "int32", 4;
    I64 = 7, "int64", 8;
    String = 8, "string", 0;
    Bool = 9, "bool", 1;
    F16 = 10, "float16", 2;
    F64 = 11, "float64", 8;
    U32 = 12, "uint32", 4;
    U64 = 13, "uint64", 8;
    C64 = 14, "complex64", 8;
    C128 = 15, "complex128", 16;
    BF16 = 16, "bfloat16", 2;
    F8E4M3FN = 17, "float8e4m3fn", 1;
    F8E4M3FNUZ = 18, "float8e4m3fnuz", 1;
    F8E5M2 = 19, "float8e5m2", 1;
    F8E5M2FNUZ = 20, "float8e5m2fnuz", 1;
    U4 = 21, "uint4", 1;
    I4 = 22, "int4", 1;
    F4E2M1 = 23, "float4e2m1", 1;
    F8E8M0 = 24, "float8e8m0", 1;
    U2 = 25, "uint2", 1;
    I2 = 26, "int2", 1;
}

impl DType {
    /// Bits of one element as stored in a file.
    pub fn bits_in_file(self) -> usize {
        match self {
            Self::U4 | Self::I4 | Self::F4E2M1 => 4,
            Self::U2 | Self::I2 => 2,
            _ => self.size() * 8,
        }
    }

    /// Whether this is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::F64 | Self::BF16)
    }

    /// Smallest and largest value of an integer type of at most 32 bits.
    pub fn int_range(self) -> Option<(i32, i32)> {
        Some(match self {
            Self::U2 => (0, 3),
            Self::I2 => (-2, 1),
            Self::U4 => (0, 15),
            Self::I4 => (-8, 7),
            Self::U8 => (0, 255),
            Self::I8 => (-128, 127),
            Self::U16 => (0, 65_535),
            Self::I16 => (-32_768, 32_767),
            Self::I32 => (i32::MIN, i32::MAX),
            _ => return None,
        })
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
