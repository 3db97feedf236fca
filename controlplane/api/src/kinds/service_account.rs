//! ServiceAccount.

use crate::rules::{Rules, as_given, as_given_update};

/// ServiceAccount's decisions.
pub const RULES: Rules = Rules { prepare_create: as_given, prepare_update: as_given_update, ..Rules::PLAIN };
