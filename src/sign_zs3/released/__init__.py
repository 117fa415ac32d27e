"""The networks that the authors of SIGN, CaGNet, SPNet and ZS3Net released, as models of this library."""

from sign_zs3.released.importing import import_released as import_released
