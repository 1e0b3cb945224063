"""Operations below the algorithms: one signature each, whatever the device."""
