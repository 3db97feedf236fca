//! Writing images to an archive.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, BufReader, Seek, SeekFrom, Write};

use serde_json::json;

use crate::compression::decompress;
use crate::digest::Digest;
use crate::error::StoreError;
use crate::image::{Image, Layer, media_type_of};
use crate::progress::{Event, Progress};
use crate::reference::Reference;
use crate::store::Store;

/// The archive's layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExportFormat {
    /// `index.json` and `blobs/`.
    #[default]
    Oci,
    /// `manifest.json`, as `docker save` writes and `docker load` reads.
    Docker,
}

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is no such image.
    #[error("image {0} not found")]
    NotFound(String),
    /// The store could not deliver.
    #[error("export {name}")]
    Store {
        /// The image.
        name: String,
        /// Why.
        source: StoreError,
    },
    /// The archive cannot be written.
    #[error("write archive")]
    Write(#[from] io::Error),
}

/// Writes images with these names as one archive. Equal images give equal archives.
///
/// # Errors
/// See the variants.
pub fn export(store: &Store, names: &[Reference], format: ExportFormat, out: impl Write, progress: &Progress) -> Result<(), ExportError> {
    let mut images: Vec<(String, Image)> = Vec::new();
    for name in names {
        let failed = |source| ExportError::Store { name: name.to_string(), source };
        let image = store.get(name).map_err(failed)?.ok_or_else(|| ExportError::NotFound(name.to_string()))?;
        images.push((name.to_string(), image));
    }
    let mut archive = Export { store, builder: tar::Builder::new(out), written: HashSet::new(), progress };
    match format {
        ExportFormat::Oci => archive.oci(&images)?,
        ExportFormat::Docker => archive.docker(&images)?,
    }
    archive.builder.into_inner()?.flush()?;
    for (name, image) in &images {
        progress.report(Event::Done { digest: image.target.clone(), names: vec![name.clone()] });
    }
    Ok(())
}

struct Export<'a, W: Write> {
    store: &'a Store,
    builder: tar::Builder<W>,
    written: HashSet<String>,
    progress: &'a Progress,
}

impl<W: Write> Export<'_, W> {
    fn oci(&mut self, images: &[(String, Image)]) -> Result<(), ExportError> {
        self.bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let mut manifests = Vec::new();
        for (name, image) in images {
            let failed = |source| ExportError::Store { name: name.clone(), source };
            // The platform's manifest, not the index: other platforms' images are mostly not here, and skopeo insists on all of an index.
            let bytes = self.store.read_blob(&image.manifest).map_err(failed)?;
            let media_type = media_type_of(&bytes, &image.manifest).map_err(failed)?;
            for digest in [&image.manifest, &image.id].into_iter().chain(image.layers.iter().map(|layer| &layer.digest)) {
                self.blob(name, &format!("blobs/sha256/{}", digest.hex()), digest)?;
            }
            manifests.push(json!({
                "mediaType": media_type, "digest": image.manifest, "size": bytes.len(),
                "platform": { "architecture": image.config.architecture(), "os": image.config.os() },
                "annotations": { "io.containerd.image.name": name, "org.opencontainers.image.ref.name": name },
            }));
        }
        let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests });
        self.bytes("index.json", index.to_string().as_bytes())
    }

    fn docker(&mut self, images: &[(String, Image)]) -> Result<(), ExportError> {
        let mut entries: BTreeMap<String, (Vec<String>, Vec<String>)> = BTreeMap::new();
        for (name, image) in images {
            let config = format!("{}.json", image.id.hex());
            self.blob(name, &config, &image.id)?;
            let mut layers = Vec::new();
            for layer in &image.layers {
                let path = format!("{}.tar", layer.diff_id.hex());
                self.plain_layer(name, &path, layer)?;
                layers.push(path);
            }
            let entry = entries.entry(config).or_insert((Vec::new(), layers));
            if Reference::parse(name).is_ok_and(|name| name.tag().is_some()) {
                entry.0.push(name.clone());
            }
        }
        let manifest: Vec<_> =
            entries.iter().map(|(config, (names, layers))| json!({ "Config": config, "RepoTags": names, "Layers": layers })).collect();
        self.bytes("manifest.json", serde_json::Value::from(manifest).to_string().as_bytes())
    }

    fn blob(&mut self, name: &str, path: &str, digest: &Digest) -> Result<(), ExportError> {
        if !self.written.insert(path.to_owned()) {
            return Ok(());
        }
        let file = self.store.open_blob(digest).map_err(|source| ExportError::Store { name: name.to_owned(), source })?;
        let size = file.metadata()?.len();
        self.builder.append_data(&mut header(size), path, BufReader::with_capacity(1 << 18, file))?;
        self.progress.report(Event::Blob { digest: digest.clone(), bytes_done: size, bytes_total: size });
        Ok(())
    }

    /// Docker's archives hold layers unpacked. Their size must stand before them, so packed ones are unpacked to a file first.
    fn plain_layer(&mut self, name: &str, path: &str, layer: &Layer) -> Result<(), ExportError> {
        if layer.digest == layer.diff_id {
            return self.blob(name, path, &layer.digest);
        }
        if !self.written.insert(path.to_owned()) {
            return Ok(());
        }
        let failed = |source| ExportError::Store { name: name.to_owned(), source };
        let blob = self.store.open_blob(&layer.digest).map_err(failed)?;
        let mut plain = tempfile::tempfile_in(self.store.path("ingest"))?;
        let size = io::copy(&mut decompress(blob)?, &mut plain)?;
        plain.seek(SeekFrom::Start(0))?;
        self.builder.append_data(&mut header(size), path, BufReader::with_capacity(1 << 18, plain))?;
        self.progress.report(Event::Blob { digest: layer.digest.clone(), bytes_done: size, bytes_total: size });
        Ok(())
    }

    fn bytes(&mut self, path: &str, bytes: &[u8]) -> Result<(), ExportError> {
        Ok(self.builder.append_data(&mut header(bytes.len() as u64), path, bytes)?)
    }
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::{ImportOptions, import};
    use crate::testing::{archive, file, gzip, store, store_with};

    #[test]
    fn what_goes_out_comes_in_again() {
        let base = archive(&[file("base", &[1; 40_000])]);
        let top = archive(&[file("top", b"2")]);
        let (_from_directory, from) = store_with("k.io/app:v1", &[&base, &top]);
        let name = Reference::parse("k.io/app:v1").unwrap();
        let image = from.get(&name).unwrap().unwrap();
        from.tag(&image, &Reference::parse("app:other").unwrap()).unwrap();
        let names = [name.clone(), Reference::parse("app:other").unwrap()];
        for format in [ExportFormat::Oci, ExportFormat::Docker] {
            let (mut first, mut second) = (Vec::new(), Vec::new());
            export(&from, &names, format, &mut first, &Progress::none()).unwrap();
            export(&from, &names, format, &mut second, &Progress::none()).unwrap();
            assert_eq!(first, second, "{format:?}: equal images, equal archives");
            let (_directory, to) = store();
            import(&to, &gzip(&first)[..], &ImportOptions::default(), &Progress::none()).unwrap();
            let arrived = to.get(&name).unwrap().unwrap();
            assert_eq!((&arrived.id, &arrived.target), (&image.id, &image.target), "{format:?}");
            assert_eq!(arrived.names.len(), 2, "{format:?}");
            assert_eq!(to.prepare(&arrived).unwrap().ids.len(), 2, "{format:?}");
        }
    }

    #[test]
    fn an_absent_image_is_named() {
        let (_directory, store) = store();
        let error = export(&store, &[Reference::parse("a:1").unwrap()], ExportFormat::Oci, Vec::new(), &Progress::none()).unwrap_err();
        assert_eq!(error.to_string(), "image docker.io/library/a:1 not found");
    }
}
