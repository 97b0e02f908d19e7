//! `--device auto|cpu|cuda[:N]`.

use std::fmt;
use std::str::FromStr;

use crate::error::{Diagnose, Kind};

/// What the user asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The best that is there.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU with this number.
    Cuda(u32),
}

/// What runs the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The CPU.
    Cpu,
}

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceError {
    /// Not one of the words.
    #[error("`{0}` is not a device")]
    Unknown(String),
    /// A GPU was asked for.
    #[error("cuda:{0} was asked for, and this build computes on the CPU only")]
    NoCuda(u32),
}

impl Diagnose for DeviceError {
    fn kind(&self) -> Kind {
        match self {
            Self::Unknown(_) => Kind::Usage,
            Self::NoCuda(_) => Kind::Resources,
        }
    }

    fn id(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "unknown_device",
            Self::NoCuda(_) => "no_device",
        }
    }

    fn help(&self) -> Vec<String> {
        match self {
            Self::Unknown(_) => vec!["devices: auto, cpu, cuda, cuda:N".into()],
            Self::NoCuda(_) => vec![
                "pass --device cpu".into(),
                "or serve the checkpoint with vLLM or SGLang and pass --endpoint-url".into(),
            ],
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|number| number.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| DeviceError::Unknown(crate::name::escape(text))),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl DeviceChoice {
    /// Finds the device that the choice means here.
    ///
    /// # Errors
    /// [`DeviceError::NoCuda`].
    pub fn resolve(self) -> Result<Device, DeviceError> {
        match self {
            Self::Auto | Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(number) => Err(DeviceError::NoCuda(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Device, DeviceChoice, DeviceError};

    #[test]
    fn words_are_read_and_written() {
        for text in ["auto", "cpu", "cuda:3"] {
            let choice: DeviceChoice = text.parse().expect(text);
            assert_eq!(choice.to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:x"] {
            assert_eq!(text.parse::<DeviceChoice>(), Err(DeviceError::Unknown(text.into())));
        }
    }

    #[test]
    fn a_gpu_is_refused_not_ignored() {
        assert_eq!(DeviceChoice::Auto.resolve(), Ok(Device::Cpu));
        assert_eq!(DeviceChoice::Cuda(1).resolve(), Err(DeviceError::NoCuda(1)));
    }
}
