//! Flags that every verb takes: which cluster, as whom, in which namespace.

use std::path::PathBuf;

/// Flags before or after any verb.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Flags of every verb")]
pub struct Globals {
    /// A kubeconfig file [default: those in KUBECONFIG, else ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context to use instead of the current one
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The cluster of the kubeconfig to use
    #[arg(long, global = true, value_name = "NAME")]
    pub cluster: Option<String>,
    /// The user of the kubeconfig to be (for create rolebinding: who is bound)
    #[arg(long, global = true, value_name = "NAME")]
    pub user: Vec<String>,
    /// The namespace to work in
    #[arg(short, long, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Address of the API server
    #[arg(short, long, global = true, value_name = "URL")]
    pub server: Option<String>,
    /// A bearer token
    #[arg(long, global = true, hide_short_help = true)]
    pub token: Option<String>,
    /// A user to act as
    #[arg(long = "as", global = true, value_name = "USER", hide_short_help = true)]
    pub as_user: Option<String>,
    /// A group to act in (may be repeated)
    #[arg(long, global = true, value_name = "GROUP", hide_short_help = true)]
    pub as_group: Vec<String>,
    /// A uid to act as
    #[arg(long, global = true, value_name = "UID", hide_short_help = true)]
    pub as_uid: Option<String>,
    /// A PEM file of authorities to trust
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub certificate_authority: Option<String>,
    /// A PEM file with one's certificate
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub client_certificate: Option<String>,
    /// A PEM file with its key
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub client_key: Option<String>,
    /// Trust any server
    #[arg(long, global = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false", hide_short_help = true)]
    pub insecure_skip_tls_verify: bool,
    /// How long one request may take, such as 5s; 0 means no limit
    #[arg(long, global = true, value_name = "TIME", default_value = "0", hide_short_help = true)]
    pub request_timeout: String,
    /// How much to tell about requests: 6 names them, 8 shows what is sent and answered
    #[arg(short, long = "v", global = true, value_name = "LEVEL", default_value_t = 0, hide_short_help = true)]
    pub verbosity: u8,
    /// Treat warnings of the server as errors
    #[arg(long, global = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false", hide_short_help = true)]
    pub warnings_as_errors: bool,
    /// Accepted, and unused: discovery is asked for afresh
    #[arg(long, global = true, value_name = "DIR", hide = true)]
    pub cache_dir: Option<String>,
    /// Accepted, and unused
    #[arg(long, global = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, action = clap::ArgAction::Set, hide_possible_values = true, value_name = "true|false", hide = true)]
    pub match_server_version: bool,
}

impl Globals {
    /// How long one request may take; zero for no limit.
    ///
    /// # Errors
    /// When the flag holds no time.
    pub fn request_limit(&self) -> anyhow::Result<std::time::Duration> {
        // a value that clap did not make has no default
        if self.request_timeout.is_empty() {
            Ok(std::time::Duration::ZERO)
        } else {
            super::duration::parse_seconds_or_go(&self.request_timeout)
        }
    }
}
