//! Stages that could be executed now are compared with what was executed before: an equal one's outputs
//! are taken, everything else is executed, and either way the reason is kept.

use slipway_core::digest::Digest;
use slipway_core::id::BuildId;
use slipway_core::memo::{self, Field, Fields, Inputs, StageKey};
use slipway_core::pipeline::{PlannedStage, Sandbox};
use slipway_store::{
    BuildChange, BuildRow, Decided, LayerRow, Memo, OutcomeRow, StageRow, StoreError,
};

use super::assign_stage::{environment, input_layers, visible};
use crate::state::App;

/// Looks up the stages of a build that wait for it; what followed in the build, if any was recalled.
///
/// # Errors
/// When the store is not available; nothing is decided then.
pub async fn recall_stages(app: &App, id: &BuildId) -> Result<Option<BuildChange>, StoreError> {
    let stages = app.db.stages(id).await?;
    let waiting = |s: &&StageRow| s.state == "ready" && s.memo == "ask";
    if !stages.iter().any(|stage| waiting(&stage)) {
        return Ok(None);
    }
    let Some(build) = app.db.build(id).await? else {
        return Ok(None);
    };
    let layers: Vec<LayerRow> = stages
        .iter()
        .map(|stage| LayerRow {
            build_id: stage.build_id.clone(),
            stage_name: stage.stage_name.clone(),
            needs: stage.needs.clone(),
            output_layer: stage.output_layer.clone(),
        })
        .collect();
    let mut all = Vec::new();
    for stage in stages.iter().filter(waiting) {
        let Ok(stage_id) = stage.stage_id.parse() else {
            continue;
        };
        let found = match key_of(app, &build, stage, &layers) {
            Some((key, inputs)) => look_up(app, &build, stage, &key, &inputs).await?,
            None => Found {
                key: None,
                fields: String::new(),
                note: "its inputs cannot be read".to_owned(),
                decided: Decided::Execute,
            },
        };
        all.push(Memo {
            stage_id,
            key: found.key,
            fields: found.fields,
            note: found.note,
            decided: found.decided,
        });
    }
    app.db.decide_memo(id, all, app.clock.now()).await
}

/// Made of the same values that an assignment is made of.
fn key_of(
    app: &App,
    build: &BuildRow,
    stage: &StageRow,
    layers: &[LayerRow],
) -> Option<(StageKey, Inputs)> {
    let mut planned: PlannedStage = serde_json::from_str(&stage.spec).ok()?;
    let inputs: Inputs = serde_json::from_str(&stage.inputs).ok()?;
    if inputs.never.is_some() {
        return None;
    }
    if !is_trusted(build) {
        planned.spec.sandbox = Sandbox::Strict;
    }
    let given = visible(stage, environment(app, build, stage));
    let key = memo::key(&memo::Ingredients {
        spec: &planned.spec,
        labels: &planned.labels,
        given: &given,
        source: &inputs.source,
        layers: &input_layers(&stage.needs, layers),
    });
    Some((key, inputs))
}

fn is_trusted(build: &BuildRow) -> bool {
    build.trust == "trusted"
}

struct Found {
    key: Option<String>,
    fields: String,
    note: String,
    decided: Decided,
}

async fn look_up(
    app: &App,
    build: &BuildRow,
    stage: &StageRow,
    key: &StageKey,
    inputs: &Inputs,
) -> Result<Found, StoreError> {
    let name = key.key.to_string();
    let fields = serde_json::to_string(&key.fields)
        .map_err(|e| StoreError::Corrupt(format!("fields: {e}")))?;
    let execute = |note: String| Found {
        key: Some(name.clone()),
        fields: fields.clone(),
        note,
        decided: Decided::Execute,
    };
    if inputs.fresh {
        let note = "executed because the build was started without recalling anything";
        return Ok(execute(note.to_owned()));
    }
    // Whose records may be read, the build's own row says.
    let scopes = memo::readable_scopes(is_trusted(build), &build.ref_name);
    let Some(outcome) = app.db.outcome(&build.repo_id, &name, &scopes).await? else {
        let newest = app
            .db
            .outcomes_named(&build.repo_id, &stage.stage_name, &scopes)
            .await?;
        return Ok(execute(why_missed(&key.fields, inputs, &newest)));
    };
    if !is_complete(app, &outcome) {
        return Ok(execute(format!(
            "executed although build {} had the same inputs: no connected agent holds what it left",
            outcome.build_id
        )));
    }
    let files = outcome.kept_files()?.len();
    let ids = (0..files).map(|_| app.rng.id(app.clock.now())).collect();
    Ok(Found {
        key: Some(name),
        fields,
        note: format!(
            "recalled: the same inputs as in build {}, attempt {} by agent {}",
            outcome.build_id, outcome.attempt, outcome.agent_id
        ),
        decided: Decided::Recall(Box::new(outcome), ids),
    })
}

/// Whether whoever needs the stage could begin with what it left.
fn is_complete(app: &App, outcome: &OutcomeRow) -> bool {
    match &outcome.output_layer {
        None => true,
        Some(layer) => {
            let layer = layer.parse::<Digest>();
            layer.is_ok_and(|layer| app.tracker.is_held(&layer))
        }
    }
}

/// In which fields it differs from the record that is nearest to it.
fn why_missed(fields: &Fields, inputs: &Inputs, newest: &[OutcomeRow]) -> String {
    let nearest = newest
        .iter()
        .filter_map(|row| {
            let then: Fields = serde_json::from_str(&row.fields).ok()?;
            Some((fields.differing(&then), row))
        })
        .min_by_key(|(differing, _)| differing.len());
    let Some((differing, row)) = nearest else {
        return "executed: never seen in this scope".to_owned();
    };
    let told: Vec<String> = differing.iter().map(|f| shown(*f, inputs)).collect();
    format!(
        "executed: not as in build {}: {}",
        row.build_id,
        told.join(", ")
    )
}

fn shown(field: Field, inputs: &Inputs) -> String {
    if field != Field::Environment || inputs.named.is_empty() {
        return field.to_string();
    }
    let named = inputs.named.iter().map(|n| match n.line {
        0 => format!("{}, named by its {}", n.name, n.path),
        line => format!("{}, named by {}:{line}", n.name, n.path),
    });
    let named: Vec<String> = named.collect();
    format!("{field} ({})", named.join("; "))
}
