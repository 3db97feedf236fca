//! The way of a write: decode, default, mutate, prepare, validate, admit, commit, encode. Each step is a function that can be read alone.

pub mod admit;
pub mod commit;
pub mod decode;
pub mod encode;
pub mod metadata;
pub mod node_restriction;
pub mod pod_admission;
pub mod quota;
pub mod role_escalation;

use jiff::Timestamp;
use parking_lot::Mutex;
use trierarch_api::{ApiError, FieldValidation, Problems, RequestFacts};
use trierarch_raft::Term;

use crate::clock::{self, Deadline};
use crate::identity::User;
use crate::request::Options;

/// The longest name of a manager.
const MANAGER_BYTES_MAX: usize = 128;

/// The facts of one write.
pub struct Ctx {
    /// Who.
    pub user: User,
    /// By which program.
    pub agent: String,
    /// By which verb.
    pub verb: String,
    /// Until when.
    pub deadline: Deadline,
    /// The term in which a leader-only component began; the store refuses it in another.
    pub fence: Option<Term>,
    /// Reads the local view instead of asking for the newest state: a part of the leading master.
    pub local: bool,
    /// Everything but the commit.
    pub dry_run: bool,
    /// Who owns the fields that are set.
    pub field_manager: String,
    /// Unknown fields.
    pub validation: FieldValidation,
    /// Apply over others' fields.
    pub force: bool,
    /// When the request came.
    pub now: Timestamp,
    warnings: Mutex<Vec<String>>,
}

impl Ctx {
    /// Of a request with options.
    ///
    /// # Errors
    /// 400 or 422 for options that make no sense.
    pub fn new(user: User, agent: &str, verb: &str, options: &Options, deadline: Deadline) -> Result<Self, ApiError> {
        let validation = match options.text("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                return Err(invalid_option(verb, "fieldValidation", other, &["", "Ignore", "Strict", "Warn"]));
            }
        };
        let mut dry_run = false;
        for value in options.all("dryRun") {
            match value {
                "" => {}
                "All" => dry_run = true,
                _ => {
                    let mut problems = Problems::default();
                    problems.not_supported(&trierarch_api::Path::new("dryRun"), options.all("dryRun"), &["All"]);
                    return Err(invalid_options(verb, &problems));
                }
            }
        }
        let manager = match options.text("fieldManager") {
            "" => manager_of_agent(agent),
            named => named.to_owned(),
        };
        let path = trierarch_api::Path::new("fieldManager");
        let mut problems = Problems::default();
        if manager.len() > MANAGER_BYTES_MAX {
            problems.too_long(&path, MANAGER_BYTES_MAX);
        }
        if let Some(at) = manager.chars().position(char::is_control) {
            let why = format!("should only contain printable characters, found {at}th character to be unprintable");
            problems.invalid(&path, manager.as_str(), why);
        }
        if !problems.is_empty() {
            return Err(invalid_options(verb, &problems));
        }
        Ok(Self {
            user,
            agent: agent.to_owned(),
            verb: verb.to_owned(),
            deadline,
            fence: None,
            local: false,
            dry_run,
            field_manager: manager,
            validation,
            force: options.flag("force"),
            now: clock::now_seconds(),
            warnings: Mutex::default(),
        })
    }

    /// Tells the client something without refusing.
    pub fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let mut warnings = self.warnings.lock();
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// What was told.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.lock().clone()
    }

    /// What the kinds' rules may know.
    pub fn facts(&self) -> RequestFacts {
        RequestFacts { user: self.user.name.clone(), groups: self.user.groups.clone(), now: self.now }
    }
}

/// The program that a `User-Agent` names, as far as it can be a manager's name.
fn manager_of_agent(agent: &str) -> String {
    let mut manager = String::new();
    for character in agent.split('/').next().unwrap_or_default().chars().filter(|character| !character.is_control()) {
        if manager.len() + character.len_utf8() > MANAGER_BYTES_MAX {
            break;
        }
        manager.push(character);
    }
    manager
}

fn invalid_option(verb: &str, option: &str, value: &str, supported: &[&str]) -> ApiError {
    let mut problems = Problems::default();
    problems.not_supported(&trierarch_api::Path::new(option), value, supported);
    invalid_options(verb, &problems)
}

/// 422 for the options of a request.
pub(crate) fn invalid_options(verb: &str, problems: &Problems) -> ApiError {
    let name = match verb {
        "create" => "CreateOptions",
        "update" => "UpdateOptions",
        "patch" => "PatchOptions",
        "list" | "watch" => "ListOptions",
        _ => "DeleteOptions",
    };
    let row = trierarch_api::Kind::cluster("meta.k8s.io", "v1", name, "", "");
    ApiError::invalid(&row, "", problems)
}
