//! `trainer export`: writes a version's model for other programs.

use std::path::PathBuf;

use store::signing::SigningKey;
use trainer::export::ExportInfo;
use trainer::{DeviceSpec, Registry};

use crate::cli::{Export, Format};
use crate::failure::Failure;
use crate::model::Model;
use crate::run::Run;
use crate::version_selector::VersionSelector;

/// Writes the export and returns its path. The bytes equal those of the run's own export of the same version.
pub(crate) fn export(ask: &Export, registry: &Registry) -> Result<String, Failure> {
    let key = ask.sign.as_deref().map(SigningKey::read).transpose();
    let key = key.map_err(|why| Failure::usage(format!("--sign: {why}")))?;
    let run = Run::open(&ask.source.run_dir, ask.source.memory)?;
    let version = run.version(ask.source.version, ask.source.verify_key.as_deref())?;
    let plan = run.plan()?;
    let model = Model::load(&run, &plan, &version, &DeviceSpec::Cpu, registry)?;
    let tokenizer = run.tokenizer(&plan)?;
    let info = ExportInfo {
        labels: plan.labels().to_vec(),
        normalisation: plan.normalisation(tokenizer.as_ref().map(|(_, json)| json.as_str())),
        config: run.config_text.clone(),
        lineage: serde_json::json!({
            "run": run.name,
            "step": version.step,
            "digest": version.digest,
            "dataset": plan.name,
            "dataset_digest": plan.digest,
            "config_digest": run.config.digest(),
            "init_digest": run.config.init.digest,
        }),
    };
    let (file, bytes) = match ask.format {
        Format::Safetensors => {
            let bytes = trainer::export::safetensors(model.engine.layout(), &model.parameters, &info);
            ("model.safetensors", bytes)
        }
    };
    let folder = ask.out.clone().unwrap_or_else(|| default_folder(&run, ask, version.step));
    std::fs::create_dir_all(&folder)
        .map_err(|why| Failure { code: 4, message: format!("{}: {why}", folder.display()) })?;
    let path = folder.join(file);
    store::write_file(&path, &bytes)?;
    if let Some(key) = &key {
        key.sign_file(&path, &bytes)?;
    }
    Ok(format!("step {} of {}: {} ({} bytes)\n", version.step, run.name, path.display(), bytes.len()))
}

/// The run's own export folder for the newest version; a separate folder for any other.
fn default_folder(run: &Run, ask: &Export, step: u64) -> PathBuf {
    let format = match ask.format {
        Format::Safetensors => "safetensors",
    };
    let exports = run.dir.join("exports");
    match ask.source.version {
        VersionSelector::Newest => exports.join(format),
        VersionSelector::Best | VersionSelector::Step(_) => exports.join(format!("{format}-step-{step:08}")),
    }
}
