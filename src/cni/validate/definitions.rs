//! NetworkAttachmentDefinitions of Kubernetes (Network Plumbing Working Group, Multi-Network Specification 1.3), and lists of
//! them, as JSON. Multus makes a network of each: from `spec.config`, or, where that is empty, from the file on the node whose
//! network has the definition's name (multus-cni, `GetCNIConfig`).

use serde_json::{Map, Value};

use super::Document;
use crate::cni::config::Object;
use crate::error::{Error, Result};

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

/// The definitions of a document, each decoded or refused; `None` if the document is something else.
pub fn definitions(map: &Map<String, Value>) -> Option<Vec<Result<Definition>>> {
    const ONE: &str = "NetworkAttachmentDefinition";
    let top = Object::top(map);
    match top.string("kind") {
        Ok(ONE) => Some(vec![Definition::decode(&top)]),
        Ok("List" | "NetworkAttachmentDefinitionList") => {
            let of_item = |item: &Object<'_>| match item.string("kind")? {
                // The elements of a list of one kind need not repeat that.
                "" | ONE => Definition::decode(item),
                kind => Err(Error::internal(format!("{kind:?} is no {ONE}"))),
            };
            Some(
                top.objects("items").map_or_else(|error| vec![Err(error)], |items| items.iter().map(of_item).collect()),
            )
        }
        _ => None,
    }
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
