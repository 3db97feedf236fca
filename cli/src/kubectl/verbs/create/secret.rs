//! `create secret generic|tls|docker-registry`.

use anyhow::bail;
use base64::Engine as _;
use serde_json::{Value, json};
use trierarch_client::ClientIdentity;

use super::Common;
use super::sources::{self, SourceArgs};

/// Arguments of `create secret`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(clap::Subcommand, Debug)]
enum Kind {
    /// Texts and files
    Generic {
        /// Its name
        name: String,
        #[command(flatten)]
        sources: SourceArgs,
        /// The type of the secret
        #[arg(long = "type")]
        kind: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// A certificate and its key
    Tls {
        /// Its name
        name: String,
        /// PEM file of the certificate
        #[arg(long)]
        cert: String,
        /// PEM file of the key
        #[arg(long)]
        key: String,
        #[command(flatten)]
        common: Common,
    },
    /// Credentials for a registry of images
    DockerRegistry {
        /// Its name
        name: String,
        /// Address of the registry
        #[arg(long, default_value = "https://index.docker.io/v1/")]
        docker_server: String,
        /// User there
        #[arg(long, default_value = "")]
        docker_username: String,
        /// Password there
        #[arg(long, default_value = "")]
        docker_password: String,
        /// Mail address there
        #[arg(long, default_value = "")]
        docker_email: String,
        /// A docker config.json instead
        #[arg(long)]
        from_file: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
}

/// The flags of every way to create.
pub fn common(args: &Args) -> &Common {
    match &args.kind {
        Kind::Generic { common, .. } | Kind::Tls { common, .. } | Kind::DockerRegistry { common, .. } => common,
    }
}

/// The object.
///
/// # Errors
/// When data cannot be read or flags are missing.
pub fn object(args: &Args) -> anyhow::Result<Value> {
    let secret = |name: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
    match &args.kind {
        Kind::Generic { name, sources, kind, .. } => {
            let mut object = secret(name);
            let data = sources.read("Secret")?;
            if !data.is_empty() {
                object["data"] = sources::secret_data(&data);
            }
            if let Some(kind) = kind {
                object["type"] = json!(kind);
            }
            Ok(object)
        }
        Kind::Tls { name, cert, key, .. } => {
            let read = |path: &str| match std::fs::read_to_string(path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    bail!("open {path}: no such file or directory")
                }
                outcome => Ok(outcome?),
            };
            let (certificate, key) = (read(cert)?, read(key)?);
            if let Err(error) = ClientIdentity::from_pem(&certificate, &key) {
                bail!("tls: {error}");
            }
            let data = [("tls.crt".to_owned(), certificate.into_bytes()), ("tls.key".to_owned(), key.into_bytes())].into();
            let mut object = secret(name);
            object["type"] = json!("kubernetes.io/tls");
            object["data"] = sources::secret_data(&data);
            Ok(object)
        }
        Kind::DockerRegistry { name, docker_server, docker_username, docker_password, docker_email, from_file, .. } => {
            let config = match from_file.first() {
                Some(source) => std::fs::read(source.strip_prefix(".dockerconfigjson=").unwrap_or(source))?,
                None => {
                    if docker_username.is_empty() || docker_password.is_empty() || docker_server.is_empty() {
                        bail!(
                            "either --from-file or the combination of --docker-username, --docker-password and --docker-server is required"
                        );
                    }
                    docker_config(docker_server, docker_username, docker_password, docker_email).into_bytes()
                }
            };
            let mut object = secret(name);
            object["type"] = json!("kubernetes.io/dockerconfigjson");
            object["data"] = sources::secret_data(&[(".dockerconfigjson".to_owned(), config)].into());
            Ok(object)
        }
    }
}

/// In the order in which Go writes the fields: the bytes are compared by people.
fn docker_config(server: &str, user: &str, password: &str, email: &str) -> String {
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    let email = if email.is_empty() { String::new() } else { format!(",\"email\":{}", json!(email)) };
    format!(
        "{{\"auths\":{{{}:{{\"username\":{},\"password\":{}{email},\"auth\":{}}}}}}}",
        json!(server),
        json!(user),
        json!(password),
        json!(auth)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_credentials_are_a_docker_config() {
        let text = docker_config("https://r/", "u", "p", "");
        assert_eq!(text, "{\"auths\":{\"https://r/\":{\"username\":\"u\",\"password\":\"p\",\"auth\":\"dTpw\"}}}");
        assert!(serde_json::from_str::<Value>(&text).is_ok());
    }
}
