//! What a bridge's configuration asks for, told from the configuration alone.

use super::Conf;
use super::setup::complete;
use crate::cni::{CniResult, Request};
use crate::error::Result;
use crate::ipam::plan;

/// Fails if no kernel can do what the configuration asks for.
pub(super) fn check(conf: &Conf, request: &Request<'_>) -> Result<()> {
    let Some(result) = expected(conf, request)? else { return Ok(()) };
    if conf.is_gateway {
        plan::verify_own_gateways(request, &result)?;
    }
    plan::check_result(request, &result, conf.mtu.bytes().into())
}

/// What IPAM will give with what the bridge adds; `None` where the configuration does not tell.
pub(super) fn expected(conf: &Conf, request: &Request<'_>) -> Result<Option<CniResult>> {
    let mut expected = plan::expected(request)?;
    if let Some(result) = &mut expected {
        complete(conf, result);
    }
    Ok(expected)
}
