//! What a bridge's configuration asks for, told from the configuration alone.

use super::Conf;
use super::setup::complete;
use crate::cni::{CniResult, Request};
use crate::error::Result;
use crate::ipam::plan;

/// Fails if no kernel can do what the configuration asks for.
pub(super) fn check(conf: &Conf, request: &Request<'_>) -> Result<()> {
    expected(conf, request)?.iter().try_for_each(|result| {
        if conf.is_gateway {
            plan::verify_own_gateways(result)?;
        }
        plan::check_result(request, result, conf.mtu.bytes().into())
    })
}

/// What IPAM may give with what the bridge adds; empty where the configuration does not tell.
pub(super) fn expected(conf: &Conf, request: &Request<'_>) -> Result<Vec<CniResult>> {
    let mut expected = plan::expected(request)?;
    expected.iter_mut().for_each(|result| complete(conf, result));
    Ok(expected)
}
