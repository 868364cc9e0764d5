//! NetworkAttachmentDefinitions of Kubernetes (Network Plumbing Working Group, Multi-Network Specification 1.3), and lists of
//! them, as JSON. Multus makes a network of each: from `spec.config`, or, where that is empty, from the file on the node whose
//! network has the definition's name (multus-cni, `GetCNIConfig`).

use serde_json::{Map, Value};

use super::Document;
use crate::cni::config::Object;
use crate::error::{Error, Result};

const ONE: &str = "NetworkAttachmentDefinition";

/// What `metadata.annotations` calls the device that a device plugin has allocated.
const RESOURCE: &str = "k8s.v1.cni.cncf.io/resourceName";

/// One NetworkAttachmentDefinition.
#[derive(Debug)]
pub struct Definition {
    /// `NAMESPACE/NAME`; the name alone where no namespace is told.
    pub label: String,
    /// The name.
    pub name: String,
    /// The text of `spec.config`; empty for the configuration of a file.
    config: String,
    /// Multus adds the address of an allocated device.
    has_device: bool,
}

/// An object of Kubernetes.
#[derive(Debug)]
pub enum Item {
    /// A definition.
    Definition(Definition),
    /// An object of another kind, which is named here.
    Other(String),
}

/// The definitions of a document, each decoded or refused; `None` if the document is something else.
pub fn definitions(map: &Map<String, Value>) -> Option<Vec<Result<Item>>> {
    let top = Object::top(map);
    let is_known = matches!(top.string("kind"), Ok(ONE | "List" | "NetworkAttachmentDefinitionList"));
    is_known.then(|| {
        let mut found = Vec::new();
        collect(&top, &mut found);
        found
    })
}

/// Adds an object to `found`, or the elements of a list.
fn collect(object: &Object<'_>, found: &mut Vec<Result<Item>>) {
    match object.string("kind") {
        Ok("List" | "NetworkAttachmentDefinitionList") => match object.objects("items") {
            Ok(items) => items.iter().for_each(|item| collect(item, found)),
            Err(error) => found.push(Err(error)),
        },
        // The elements of a list of one kind need not repeat that.
        Ok("" | ONE) => found.push(Definition::decode(object).map(Item::Definition)),
        Ok(kind) => found.push(Ok(Item::Other(kind.to_string()))),
        Err(error) => found.push(Err(error)),
    }
}

/// A `List` of the objects in several documents (`jq .items[]`) or arrays (`jq .items`). `None`
/// unless each names its kind.
pub(super) fn list_of(bytes: &[u8]) -> Option<Map<String, Value>> {
    let documents = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>();
    let documents = documents.collect::<serde_json::Result<Vec<_>>>().ok()?;
    let objects_in = |document| match document {
        Value::Array(items) => items,
        other => vec![other],
    };
    let items: Vec<Value> = documents.into_iter().flat_map(objects_in).collect();
    let has_kind = |item: &Value| item.get("kind").and_then(Value::as_str).is_some_and(|kind| !kind.is_empty());
    let are_objects = !items.is_empty() && items.iter().all(has_kind);
    are_objects.then(|| Map::from_iter([("kind".to_string(), "List".into()), ("items".to_string(), items.into())]))
}

impl Definition {
    fn decode(object: &Object<'_>) -> Result<Definition> {
        let metadata = object.object("metadata")?.unwrap_or_else(Object::null);
        let (namespace, name) = (metadata.string("namespace")?, metadata.string("name")?);
        if name.is_empty() {
            return Err(Error::internal("metadata.name is missing"));
        }
        let label = if namespace.is_empty() { name.to_string() } else { format!("{namespace}/{name}") };
        let annotations = metadata.object("annotations")?;
        let config = object.object("spec")?.map_or(Ok(""), |spec| spec.string("config"));
        Ok(Definition {
            config: config.map_err(|error| error.behind(&label))?.to_string(),
            has_device: annotations.is_some_and(|annotations| annotations.has(RESOURCE)),
            label,
            name: name.to_string(),
        })
    }

    /// The network of `spec.config`, called `file` in the report; `None` if there is none.
    pub fn document(&self, file: String) -> Result<Option<Document>> {
        if self.config.trim().is_empty() {
            return Ok(None);
        }
        let mut document =
            Document::parse(file, self.config.as_bytes()).map_err(|error| error.behind("spec.config"))?;
        document.name_if_missing(&self.name);
        if self.has_device {
            document.add_device();
        }
        Ok(Some(document))
    }
}

impl Document {
    /// Adds a device to the first plugin if that one needs a device, as Multus does.
    fn add_device(&mut self) {
        let first = match self.map.get_mut("plugins") {
            Some(Value::Array(plugins)) => plugins.first_mut().and_then(Value::as_object_mut),
            Some(_) => None,
            None => Some(&mut self.map),
        };
        if let Some(plugin) = first.filter(|plugin| plugin.get("type").is_some_and(|kind| kind == "host-device")) {
            plugin.entry("pciBusID").or_insert_with(|| "0000:00:00.0".into());
        }
    }
}
