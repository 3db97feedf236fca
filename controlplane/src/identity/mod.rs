//! Who is who: authorities, the certificates they sign, the token by which masters and agents join, and the bundle that masters share.

pub mod authority;
pub mod bundle;
pub mod csr;
pub mod pki;
pub mod presented;

pub use authority::{Authority, LEAF_LIFETIME, Leaf, LeafRequest, Usage};
pub use bundle::{Bundle, BundleError};
pub use pki::{Names, Pki, PkiError};
